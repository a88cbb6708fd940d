"""Small trainings by Lightning's Trainer, with losses and a model of a few parameters."""

from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
from torch import Tensor

from limoe.losses.auxiliary.base import AuxLossSet
from limoe.losses.auxiliary.classic import Importance, Load, ZLoss
from limoe.losses.auxiliary.entropy import GlobalEntropy, LocalEntropy
from limoe.losses.contrastive import SoftmaxContrastive
from limoe.training.lit_module import LIMoEModule
from limoe.training.optim import adamw
from tests.helpers.builders import Batches, quiet_trainer, tiny_batch, tiny_model

CONFIG = {"model": {"width": 16, "moe_layers": [1], "out_dim": None}, "seed": 0, "name": "tiny", "lr": 1e-3}


def aux_losses(**settings: Any) -> AuxLossSet:
    terms = {
        "importance": Importance(),
        "load": Load(),
        "z": ZLoss(),
        "local_text": LocalEntropy(modality="text"),
        "global_text": GlobalEntropy(modality="text", min_fraction=0.28),
    }
    return AuxLossSet(terms, **settings)


def module(**changes: Any) -> LIMoEModule:
    parts = {
        "model": tiny_model(),
        "contrastive": SoftmaxContrastive(),
        "aux_losses": aux_losses(),
        "optimizer": partial(adamw, lr=1e-3),
        "scheduler": lambda step: 1.0,
        "config": CONFIG,
    }
    model = changes.pop("model", parts.pop("model"))
    return LIMoEModule(model, **{**parts, **changes})


def fit(lit: LIMoEModule, folder: Path, *, steps: int = 3, **settings: Any) -> L.Trainer:
    trainer = quiet_trainer(folder, max_steps=steps, **settings)
    batches = [tiny_batch(seed=i) for i in range(steps * settings.get("accumulate_grad_batches", 1))]
    trainer.fit(lit, train_dataloaders=Batches(batches), val_dataloaders=Batches([tiny_batch(seed=99)]))
    return trainer


class NoContrast(SoftmaxContrastive):
    """A task loss without gradient signal."""

    def __call__(self, image_features: Tensor, text_features: Tensor, logit_scale: Tensor) -> Tensor:
        return (image_features.sum() + text_features.sum() + logit_scale) * 0.0


class Watch(L.Callback):
    """What holds in each training batch and in each validation."""

    def __init__(self) -> None:
        self.factors: list[dict[str, float]] = []
        self.train: list[str] = []
        self.validation: list[tuple[int, str]] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.factors.append(dict(pl_module.aux_losses.factor))
        self.train.append(self._router(pl_module).priority.__name__)

    def on_validation_batch_start(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        router = self._router(pl_module)
        self.validation.append((trainer.global_step, (router.eval_priority or router.priority).__name__))

    def _router(self, pl_module: Any) -> Any:
        return pl_module.model.tower.blocks[1].mlp.router
