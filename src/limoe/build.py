"""From a checked config to the objects of a run: data, tasks, module, callbacks, loggers, trainer."""

from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import LearningRateMonitor
from omegaconf import DictConfig
from torch import nn

from limoe.callbacks.base import TaskCallback
from limoe.checkpoints.files import model_state
from limoe.checkpoints.upcycling import Start
from limoe.config.keys import arguments_of
from limoe.config.objects import instantiate, plain
from limoe.data.datamodule import PairDataModule
from limoe.data.tasks.kinds import Task
from limoe.data.text.text_tokenizer import TextTokenizer
from limoe.errors import require
from limoe.losses.auxiliary.base import AuxLossSet
from limoe.models.compilation import compile_blocks
from limoe.models.dual_encoder import DualEncoder
from limoe.training.lit_module import LIMoEModule

Tasks = dict[str, Task]


def build_data(cfg: DictConfig) -> PairDataModule:
    """The data module with its tokenizer fitted.

    Raises `ConfigError` if a value breaks a rule, or the model's config does not fit the tokenizer, `DataError` if data
    is missing or broken.
    """
    data: PairDataModule = instantiate(cfg.data.module)
    with arguments_of(cfg.tokenizer):
        tokenizer = data.fit_tokenizer()
    check_tokenizer(tokenizer, model=cfg.model)
    return data


def check_tokenizer(tokenizer: TextTokenizer, *, model: DictConfig) -> None:
    """Check that the text embedding has a row for every token and a position for every place. Raises `ConfigError` if
    the model's config does not fit the tokenizer.
    """
    tokens = tokenizer.vocab_size
    length = tokenizer.length
    require(
        tokens <= model.vocab_size, "model.vocab_size", f">= {tokens}, the tokens of the tokenizer", model.vocab_size
    )
    require(
        length == model.text_length, "model.text_length", f"{length}, the length of tokenized texts", model.text_length
    )


def build_tasks(cfg: DictConfig) -> Tasks:
    """The evaluation tasks of the group `eval` by name."""
    return {name: instantiate(node) for name, node in cfg.eval.items()}


def build_model(cfg: DictConfig) -> DualEncoder:
    """The model with weights as they are drawn. Raises `ConfigError` if a size breaks its rule, or `model._target_`
    makes something else.
    """
    model = instantiate(cfg.model)
    is_model = isinstance(model, DualEncoder)
    require(is_model, "model._target_", "a limoe.models.dual_encoder.DualEncoder", cfg.model._target_)
    return model


def build_trained(
    cfg: DictConfig, checkpoint: dict[str, Any], *, tokenizer: Path, accelerator: str
) -> tuple[Any, PairDataModule]:
    """The model of a finished run in evaluation mode on its device, and its data module with the run's tokenizer.

    `accelerator`: auto, cpu or cuda.
    Raises `DataError` if tokenizer or data is missing or broken.
    """
    device = "cuda" if accelerator == "auto" and torch.cuda.is_available() else accelerator
    model = build_model(cfg)
    model.load_state_dict(model_state(checkpoint))
    model.to("cpu" if device == "auto" else device).eval()
    data: PairDataModule = instantiate(cfg.data.module)
    data.tokenizer = TextTokenizer.load(tokenizer)
    check_tokenizer(data.tokenizer, model=cfg.model)
    return model, data


def initialise(cfg: DictConfig, model: nn.Module, *, tokenizer: TextTokenizer) -> Start | None:
    """Fill in weights of another model where `init_from` asks for it; a resumed run has its own."""
    if cfg.get("init_from") is None or cfg.ckpt_path is not None:
        return None
    fill = instantiate(cfg.init_from)
    with arguments_of(cfg.init_from):
        return fill(model, tokenizer=tokenizer)


def build_module(cfg: DictConfig) -> LIMoEModule:
    """The model with the weights it starts from, its losses and its optimizer."""
    model = build_model(cfg)
    with arguments_of(cfg.model):
        model.load_starting_weights()
    compile_blocks(model.transformer_blocks() or [model], plain(cfg)["compile"])
    return assemble(cfg, model)


def assemble(cfg: DictConfig, model: nn.Module) -> LIMoEModule:
    """The losses, the optimizer and its schedule around a model."""
    make_losses = instantiate(cfg.aux_total, _target_=f"{AuxLossSet.__module__}.AuxLossSet", _partial_=True)
    return LIMoEModule(
        model,
        contrastive=instantiate(cfg.contrastive),
        aux_losses=make_losses(instantiate(cfg.aux_loss)),
        optimizer=instantiate(cfg.optimizer),
        scheduler=instantiate(cfg.scheduler),
        config=plain(cfg),
        micro_batch_size=cfg.micro_batch_size,
    )


def build_callbacks(cfg: DictConfig) -> list[L.Callback]:
    """Callbacks in the order of the config, without the evaluation tasks that some of them need. Raises `ConfigError`
    if a value breaks its rule, or something is no callback of Lightning.
    """
    callbacks = []
    for name, node in cfg.callbacks.items():
        callback = instantiate(node)
        is_callback = isinstance(callback, L.Callback)
        require(is_callback, f"callbacks.{name}", f"a Lightning callback (drop it: ~callbacks.{name})", callback)
        callbacks.append(callback)
    return callbacks


def build_trainer(cfg: DictConfig, *, tasks: Tasks) -> L.Trainer:
    """The trainer with its loggers and callbacks; each `TaskCallback` has received `tasks`."""
    loggers = [instantiate(node) for node in (cfg.logger or {}).values()]
    callbacks = build_callbacks(cfg)
    if not loggers:  # `logger=none`: the learning rate is not logged either, and Lightning's callback would raise
        callbacks = [callback for callback in callbacks if not isinstance(callback, LearningRateMonitor)]
    for callback in callbacks:
        if isinstance(callback, TaskCallback):
            callback.use_tasks(tasks)
    make = instantiate(cfg.trainer, _partial_=True)  # called here: Hydra would turn loggers into config nodes
    return make(logger=loggers or False, callbacks=callbacks)
