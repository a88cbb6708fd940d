"""Optimizers against numbers of the JAX reference (vmoe, big_vision): parameters after one to twelve steps.

All parameters are given to the optimizer in the reference's shapes, attention kernels per head included, so what is
compared is the arithmetic and which axes are factored. Our own attention holds one fused matrix, whose second moment is
factored over all heads: `benchmarks.factoring` measures that difference, and docs/recipe.md says what it comes to.
"""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import pytest
import torch
from timm.optim import AdafactorBigVision
from timm.optim.adafactor_bv import _factored_dims
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from benchmarks.factoring import compare, per_head, update
from limoe.training.optim import adafactor, adamw, parameter_groups
from limoe.training.schedules import Schedule, rsqrt
from tests.helpers.reference import arrays, cases, table

SOURCE = "v_adafactor_lr"  # holds the initial parameters and gradients of most cases


class Holder(nn.Module):
    """The reference's parameters: a kernel is a `weight`, everything else a `bias`."""

    def __init__(self, values: Mapping[str, np.ndarray]) -> None:
        super().__init__()
        self.parts = nn.ModuleList()
        self.by_path: dict[str, nn.Parameter] = {}
        for path, value in values.items():
            part = nn.Module()
            self.by_path[path] = nn.Parameter(torch.from_numpy(value.copy()))
            part.register_parameter("weight" if path.endswith("/kernel") else "bias", self.by_path[path])
            self.parts.append(part)


def flat(module: nn.Module, *, weight_decay: float = 0.0, **settings: object) -> Optimizer:
    """timm's Adafactor as vmoe sets it: float32 momentum, no decay on routers."""
    groups = parameter_groups(module, weight_decay=weight_decay)
    routers = [p for path, p in module.by_path.items() if "Router" in path]
    groups[0]["params"] = [p for p in groups[0]["params"] if all(p is not router for router in routers)]
    groups[1]["params"] += routers
    return AdafactorBigVision(groups, **{"momentum_dtype": "float32", "min_dim_size_to_factor": 32, **settings})


def linear(step: int) -> float:
    """vmoe's warmup_linear_decay: 2 steps up to 1, then 18 down to 0.01."""
    return step / 2 if step < 2 else 1 + (0.01 - 1) * (step - 2) / 18


SHORT = rsqrt(total_steps=20, warmup=2, cooldown=3, timescale=5)
CASES: dict[str, tuple[Callable[[nn.Module], Optimizer], Schedule | None, float | None, float]] = {
    "v_adafactor_lr": (partial(flat, lr=0.01), None, None, 1e-6),
    "v_adafactor_full": (partial(flat, lr=0.02, weight_decay=0.1), SHORT, 1.0, 1e-6),
    "v_adafactor_nomom": (partial(flat, lr=0.01, momentum=None), None, None, 1e-6),
    "v_adafactor_mindim5": (partial(flat, lr=0.01, min_dim_size_to_factor=5), None, None, 1e-6),
    "v_adafactor_cap": (partial(flat, lr=0.01, beta2_cap=0.7), None, None, 1e-6),
    # the next is ours as configured; decay 1e-2 of big_vision at its peak rate 1e-3 is 1e-2 / 1e-3 = 10 here
    "bv_adafactor": (partial(adafactor, lr=1e-3, weight_decay=10.0), SHORT, 1.0, 2e-5),
    "bv_adafactor_f32mom_cap95": (
        lambda m: AdafactorBigVision(
            parameter_groups(m, weight_decay=10.0),
            lr=1e-3,
            beta2_cap=0.95,
            momentum_dtype="float32",
            min_dim_size_to_factor=32,
        ),
        rsqrt(total_steps=20, warmup=0, cooldown=3, timescale=5),
        None,
        1e-6,
    ),
    "v_adam": (partial(adamw, lr=1e-2, weight_decay=0.03), linear, 1.0, 1e-6),
}


def under(given: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {key.removeprefix(prefix): value for key, value in given.items() if key.startswith(prefix)}


@pytest.mark.parametrize("name", CASES)
def test_parameters_after_each_step(name: str) -> None:
    given, (build, schedule, clip, tolerance) = arrays("optim"), CASES[name]
    source = name if under(given, f"{name}/p0/") else SOURCE
    module = Holder(under(given, f"{source}/p0/"))
    optimizer = build(module)
    rates = LambdaLR(optimizer, schedule or (lambda step: 1.0))
    compared = 0
    for step in range(12 if source == "v_adafactor_cap" else 5):
        for path, gradient in under(given, f"{source}/g{step}/").items():
            module.by_path[path].grad = torch.from_numpy(gradient.copy())
        if clip is not None:
            clip_grad_norm_(module.parameters(), clip)
        optimizer.step()
        rates.step()
        for path, expected in under(given, f"{name}/p{step + 1}/").items():
            found = module.by_path[path].detach().numpy()
            error = np.abs(found - expected).max() / max(1.0, np.abs(expected).max())
            assert error <= tolerance, (step, path, error)
            compared += 1
    assert compared >= 2 * len(module.by_path)


def test_every_case_is_tested() -> None:
    assert set(cases("optim")) == set(CASES)


def test_the_same_axes_are_factored() -> None:
    """timm names the column axis first as optax does; of two equal axes either choice is the same statistic."""
    shapes = {path: value.shape for path, value in under(arrays("optim"), f"{SOURCE}/p0/").items()}
    for path, by_limit in table("adafactor_factored_dims").items():
        written = path.partition("(")[2].strip(")").split(",")
        shape = shapes[path] if path in shapes else tuple(map(int, written))
        for limit, axes in by_limit.items():
            found = _factored_dims(shape, True, int(limit))
            assert (found and sorted(found)) == (axes and sorted(axes)), (path, limit)


def test_fused_attention_moves_in_nearly_the_same_direction() -> None:
    """Random gradients of a [3 * 64, 64] matrix, two heads of 32; and one whose heads differ tenfold in size, where
    factoring the fused matrix still follows, since a head's size is a factor of its rows."""
    gradients = [torch.randn(192, 64) for _ in range(5)]
    assert per_head(gradients[0], 2).shape == (3, 2, 32, 64)
    cosine, ratio = compare(gradients, 2)
    assert cosine > 0.98 and ratio == pytest.approx(1, abs=0.02)
    uneven = [gradient * torch.tensor([1.0, 10.0]).repeat(3).repeat_interleave(32)[:, None] for gradient in gradients]
    cosine, ratio = compare(uneven, 2)
    assert cosine > 0.98 and ratio == pytest.approx(1, abs=0.02)


def test_an_update_by_hand() -> None:
    """One gradient of rank one, a b^T: the factored second moment is exact, so each entry moves by its sign."""
    a, b = torch.rand(32, 1) + 0.1, torch.rand(1, 40) - 0.5
    torch.testing.assert_close(update([a @ b]), (a @ b).sign(), rtol=1e-4, atol=1e-4)
