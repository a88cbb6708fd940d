"""An exponential moving average of the weights, evaluated and saved in place of the weights themselves."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor

from limoe.errors import require_argument


class Ema(WeightAveraging):
    """average = decay * average + (1 - decay) * weights after every optimizer step: a horizon of 1 / (1 - decay) steps.

    Up to `start_step` the average is a copy of the weights. Validation and its tasks use the average, at any position
    of this callback in the list. Checkpoints hold it as their `state_dict`, so `limoe eval` evaluates it, and the
    weights of the training as `current_model_state`. After the last step the module keeps the average.

    Args:
        decay: share of the average that a step keeps.
        start_step: optimizer steps before averaging begins (the first weights are far from the last).
    """

    def __init__(self, *, decay: float = 0.999, start_step: int = 0) -> None:
        require_argument(0 <= decay < 1, "decay", "in [0, 1)", decay)
        require_argument(start_step >= 0, "start_step", ">= 0 (optimizer steps)", start_step)
        super().__init__(multi_avg_fn=self._update)
        self.decay = decay
        self.start_step = start_step
        self._swapped = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._device = trainer.strategy.root_device  # the module moves there only later
        super().setup(trainer, pl_module, stage)

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_validation_epoch_start(trainer, pl_module)
        self._swapped = True

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the average: later callbacks in the list may evaluate tasks in this hook."""

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Swap back before checkpoints are written: Lightning calls the checkpoint callbacks last."""
        self._swap_back(trainer, pl_module)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Swap back, so that a checkpoint written after an error has the weights and the average in their places."""
        self._swap_back(trainer, pl_module)

    def _swap_back(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._swapped:
            super().on_validation_epoch_end(trainer, pl_module)
        self._swapped = False

    @torch.no_grad()
    def _update(self, averages: Any, weights: Any, num_averaged: Any) -> None:
        """Update the averages of all tensors of one dtype; called from the second update on (the first one copies)."""
        decay = self.decay if self._latest_update_step >= self.start_step else 0.0
        if isinstance(averages[0], Tensor) and averages[0].is_floating_point():
            torch._foreach_lerp_(averages, weights, 1 - decay)
        else:  # counters have no mean
            torch._foreach_copy_(averages, weights)
