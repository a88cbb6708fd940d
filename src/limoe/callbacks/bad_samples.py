"""Log the number of samples that could not be read and were replaced."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from limoe.data.datamodule import PairDataModule


class BadSampleCount(Callback):
    """Log `train/bad_samples`: samples that this process has replaced since the start of the run."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        if isinstance(data, PairDataModule):
            pl_module.log("train/bad_samples", float(data.bad_samples.replaced.total))
