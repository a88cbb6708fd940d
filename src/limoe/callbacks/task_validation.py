"""Evaluate tasks after validations and log the numbers: one callback per kind of task."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from limoe.callbacks.base import TaskCallback
from limoe.data.tasks.kinds import FewShotTask, RetrievalTask, ZeroShotTask
from limoe.errors import require_argument
from limoe.evaluation.encode import FeatureExtractor
from limoe.evaluation.tasks import evaluate_task


class TaskValidation(TaskCallback):
    """Log `val/<task>/<metric>` after every `every_n_val`-th validation, and after the last step of training.

    `batch_size` counts texts (prompts) per forward pass. The sanity check is skipped. Each rank encodes and scores its
    share of the images and texts; all ranks log the metrics over all shares.
    """

    shown: tuple[str, ...] = ()  # metrics that belong in the progress bar

    def __init__(self, *, every_n_val: int = 1, batch_size: int = 256) -> None:
        require_argument(every_n_val >= 1, "every_n_val", ">= 1 (validations)", every_n_val)
        require_argument(batch_size >= 1, "batch_size", ">= 1 (texts)", batch_size)
        super().__init__()
        self.every_n_val = every_n_val
        self.batch_size = batch_size
        self._validations = 0

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or not self._due(trainer):
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        encoder = FeatureExtractor(pl_module.model, data, batch_size=self.batch_size)
        for name, task in self.tasks.items():
            for metric, value in evaluate_task(encoder, task, progress=name).compute().items():
                pl_module.log(f"val/{name}/{metric}", value, prog_bar=metric in self.shown, sync_dist=True)

    def _due(self, trainer: Trainer) -> bool:
        if trainer.state.fn != TrainerFn.FITTING:
            return True
        self._validations += 1
        last = trainer.should_stop or trainer.global_step >= trainer.max_steps
        return last or self._validations % self.every_n_val == 0

    def state_dict(self) -> dict[str, int]:
        return {"validations": self._validations}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self._validations = state_dict["validations"]


class ZeroShotValidation(TaskValidation):
    """Log `val/<task>/zeroshot_top1`, `zeroshot_top5` and `zeroshot_class_mean` of every `ZeroShotTask`."""

    kind = ZeroShotTask
    shown = ("zeroshot_top1",)


class RetrievalValidation(TaskValidation):
    """Log `val/<task>/i2t_r1|r5|r10` and `t2i_r1|r5|r10` of every `RetrievalTask`."""

    kind = RetrievalTask


class FewShotValidation(TaskValidation):
    """Log `val/<task>/fewshot<shots>_top1`, the mean over seeds, of every `FewShotTask`."""

    kind = FewShotTask
