"""Progress in one line: step, time left, and the metrics logged for the progress bar."""

import shutil
import sys
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, Timer
from lightning.pytorch.trainer.states import TrainerFn
from tqdm import tqdm

from limoe.errors import require_argument

_BAR = "{n_fmt}/{total_fmt} {bar} {desc}"
_BAR_EVERY = 0.25  # seconds; each refresh waits for metrics on the device


class Progress(ProgressBar):
    """A bar over all training steps in a terminal; elsewhere a plain line per validation.

    Shows `train/loss`, each `val/<task>/zeroshot_top1`, and the success rates of both modalities, as far as they were
    logged with `prog_bar=True`. `plain_every`: seconds between plain lines at most, when the output is no terminal.
    """

    def __init__(self, *, plain_every: float = 60.0) -> None:
        super().__init__()
        require_argument(plain_every > 0, "plain_every", "> 0 (seconds)", plain_every)
        self.plain_every = plain_every
        self.is_enabled = True  # read by `LightningModule.print`
        self._bar = tqdm(disable=True)
        self._first_step = 0
        self._started = self._reported = 0.0

    def enable(self) -> None:
        self.is_enabled = True

    def disable(self) -> None:
        """Called by Lightning on every rank but the first."""
        self.is_enabled = False

    def print(self, *args: Any, **kwargs: Any) -> None:
        if self.is_enabled:
            tqdm.write(" ".join(str(arg) for arg in args), file=sys.stdout)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._first_step = trainer.global_step
        self._started = self._reported = time.monotonic()
        self._bar = tqdm(
            total=_total(trainer),
            initial=trainer.global_step,
            file=sys.stdout,
            bar_format=_BAR,
            ncols=shutil.get_terminal_size().columns,  # 80 where unknown
            disable=not (self.is_enabled and sys.stdout.isatty()),
        )

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        every = self.plain_every if self._bar.disable else _BAR_EVERY
        if time.monotonic() - self._reported > every:
            self._report(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._report(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._bar.disable:
            self._report(trainer)
        self._bar.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._bar.close()

    def _report(self, trainer: Trainer) -> None:
        self._reported = time.monotonic()
        if not self._bar.disable:
            self._bar.set_description_str(self._numbers(trainer), refresh=False)
            self._bar.n = trainer.global_step
            self._bar.refresh()
        elif self.is_enabled:
            steps = f"{trainer.global_step}/{_total(trainer) or '?'}"
            elapsed = tqdm.format_interval(self._reported - self._started)
            print(f"step {steps}, {elapsed} so far, {self._numbers(trainer)}", flush=True)

    def _numbers(self, trainer: Trainer) -> str:
        left = self._seconds_left(trainer)
        time_left = [] if left is None else [f"{tqdm.format_interval(left)} left"]
        return ", ".join(time_left + shown(trainer.progress_bar_metrics))

    def _seconds_left(self, trainer: Trainer) -> float | None:
        """Seconds left at the mean pace so far, validations included, at most `trainer.max_time`; None if unknown."""
        done = trainer.global_step - self._first_step
        total = _total(trainer)
        elapsed = time.monotonic() - self._started
        limits = [elapsed / done * (total - trainer.global_step)] if total is not None and done > 0 else []
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Timer) and (seconds := callback.time_remaining()) is not None:
                limits.append(max(seconds, 0.0))
        return min(limits, default=None)


def shown(metrics: dict[str, Any]) -> list[str]:
    """Short names in a fixed order, such as `loss 2.310`, `zero-shot 34.0%`, `text success 88%`."""
    accuracies = [key for key in metrics if key.endswith("/zeroshot_top1")]
    parts = [f"loss {float(metrics['train/loss']):.3f}"] if "train/loss" in metrics else []
    for key in accuracies:
        name = "zero-shot" if len(accuracies) == 1 else key.split("/")[1]
        parts.append(f"{name} {float(metrics[key]):.1%}")
    for modality in ("image", "text"):
        if (key := f"router/{modality}/success_rate") in metrics:
            parts.append(f"{modality} success {float(metrics[key]):.0%}")
    return parts


def _total(trainer: Trainer) -> int | None:
    return trainer.max_steps if trainer.max_steps > 0 else None
