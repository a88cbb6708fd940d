"""From a checked config to the objects of a run: data, tasks, module, callbacks, loggers, trainer."""

import inspect
from typing import Any

import lightning as L
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig
from torch import nn

from limoe.aux_losses.base import AuxLossSet
from limoe.config import instantiate, plain
from limoe.config_targets import locate
from limoe.data.datamodule import PairDataModule
from limoe.errors import ConfigError
from limoe.lit_module import LIMoEModule
from limoe.types import RetrievalTask, ZeroShotTask

Tasks = dict[str, ZeroShotTask | RetrievalTask]


def build_data(cfg: DictConfig) -> PairDataModule:
    """The data module with its tokenizer fitted.

    Raises:
        ConfigError: the tokenizer has more tokens than the model has embeddings.
        DataError: data is missing or broken.
    """
    data: PairDataModule = instantiate(cfg.data.module)
    check_vocabulary(data.fit_tokenizer().vocab_size, model_size=cfg.model.vocab_size)
    return data


def check_vocabulary(tokenizer_size: int, *, model_size: int) -> None:
    if tokenizer_size > model_size:
        raise ConfigError(
            f"model.vocab_size must be >= {tokenizer_size}, the tokens of the tokenizer, got {model_size}"
        )


def build_tasks(cfg: DictConfig) -> Tasks:
    """The evaluation tasks of the group `eval` by name."""
    return {name: instantiate(node) for name, node in cfg.eval.items()}


def build_model(cfg: DictConfig) -> nn.Module:
    return instantiate(cfg.model)


def build_module(cfg: DictConfig) -> LIMoEModule:
    return LIMoEModule(
        build_model(cfg),
        contrastive=instantiate(cfg.contrastive),
        aux_losses=AuxLossSet(instantiate(cfg.aux_loss), **plain(cfg.aux_total)),
        optimizer=instantiate(cfg.optimizer),
        scheduler=instantiate(cfg.scheduler),
        config=plain(cfg),
    )


def build_callbacks(cfg: DictConfig, *, tasks: Tasks) -> list[L.Callback]:
    """Callbacks in the order of the config; those with an argument `tasks` get the evaluation tasks."""
    callbacks = []
    for name, node in cfg.callbacks.items():
        wants_tasks = "tasks" in inspect.signature(locate(node._target_, key=f"callbacks.{name}")).parameters
        callbacks.append(_construct(node, **({"tasks": tasks} if wants_tasks else {})))
    return callbacks


def build_trainer(cfg: DictConfig, *, tasks: Tasks) -> L.Trainer:
    loggers = [instantiate(node) for node in (cfg.logger or {}).values()]
    return _construct(cfg.trainer, logger=loggers or False, callbacks=build_callbacks(cfg, tasks=tasks))


def _construct(node: DictConfig, **objects: Any) -> Any:
    """Instantiate with ready objects, which Hydra would turn into config nodes.

    Raises:
        ConfigError: the constructor refuses a value.
    """
    try:
        return instantiate(node, _partial_=True)(**objects)
    except (ValueError, MisconfigurationException) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{node._get_full_key('')}: {error}") from error
