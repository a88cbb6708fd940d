"""End the training at a loss that is not finite, before the optimizer step."""

import lightning as L
import torch
from torch import Tensor

from limoe.errors import DivergedError, require_argument


class NonFiniteGuard(L.Callback):
    """Raise `DivergedError` on all ranks as soon as the loss of any rank is NaN or infinite.

    Weights and checkpoints stay those of the last finite step. Each check synchronises the host with the device;
    `every_n_steps` above 1 checks less often, and up to that many steps may be lost.

    Args:
        every_n_steps: batches between two checks.
    """

    def __init__(self, *, every_n_steps: int = 1) -> None:
        require_argument(every_n_steps >= 1, "every_n_steps", ">= 1", every_n_steps)
        self.every_n_steps = every_n_steps
        self._batches = 0

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        self._batches += 1
        if self._batches % self.every_n_steps:
            return
        is_bad = not torch.isfinite(loss.detach()).item()
        if trainer.strategy.reduce_boolean_decision(is_bad, all=False):
            raise DivergedError(
                f"the loss of step {trainer.global_step + 1} is not finite (here {loss.item():g}); lower optimizer.lr, "
                "lengthen scheduler.warmup, or look at the last finite values of train/*"
            )
