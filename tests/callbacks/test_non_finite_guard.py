"""A training whose loss is not finite ends before its weights take it in."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor

from limoe.callbacks.non_finite_guard import NonFiniteGuard
from limoe.errors import DivergedError
from limoe.losses.contrastive import SoftmaxContrastive
from tests.helpers.builders import tiny_model
from tests.helpers.ranks import run_two
from tests.helpers.training import fit, module


class Breaks(SoftmaxContrastive):
    """Gives `value` from the third training step on."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value, self.calls = value, 0

    def forward(self, image_features: Tensor, text_features: Tensor, logit_scale: Tensor) -> Tensor:
        self.calls += torch.is_grad_enabled()
        loss = super().forward(image_features, text_features, logit_scale)
        return loss * self.value if self.calls >= 3 else loss


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_stay_those_of_the_last_finite_step(tmp_path: Path, value: float) -> None:
    lit = module(model=tiny_model(), contrastive=Breaks(value))
    with pytest.raises(
        DivergedError, match=r"the loss of step 3 is not finite \(here (nan|inf)\); lower optimizer\.lr"
    ):
        fit(lit, tmp_path, steps=5, callbacks=[NonFiniteGuard()])
    assert all(parameter.isfinite().all() for parameter in lit.parameters())


def test_looks_every_n_steps_only(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match="the loss of step 4 "):
        fit(module(contrastive=Breaks(float("nan"))), tmp_path, steps=5, callbacks=[NonFiniteGuard(every_n_steps=4)])


def test_every_n_steps_is_positive() -> None:
    with pytest.raises(ValueError, match=r"^every_n_steps must be >= 1, got 0"):
        NonFiniteGuard(every_n_steps=0)


def one_bad_rank(rank: int) -> list[str]:
    strategy = DDPStrategy(accelerator=CPUAccelerator(), parallel_devices=[torch.device("cpu")] * 2)
    trainer: Any = SimpleNamespace(global_step=6, strategy=strategy)
    loss = torch.tensor(float("nan") if rank == 1 else 2.5)
    try:
        NonFiniteGuard().on_before_backward(trainer, None, loss)  # type: ignore[arg-type]
    except DivergedError as error:
        return [str(error)]
    return []


def test_all_ranks_end_when_one_diverges(tmp_path: Path) -> None:
    (message,) = run_two(one_bad_rank, tmp_path)  # of rank 0, whose own loss is fine
    assert message.startswith("the loss of step 7 is not finite (here 2.5)")
