"""Which parameters decay, and what one step does."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from limoe.losses.contrastive import SoftmaxContrastive
from limoe.training.optim import adafactor, adamw, lion, parameter_groups
from tests.helpers.builders import tiny_batch, tiny_model

FACTORIES = [adamw, adafactor, lion]


def test_every_parameter_is_in_exactly_one_group() -> None:
    model = tiny_model(moe_layers=(0, 1))
    found = [id(p) for group in parameter_groups(model, weight_decay=0.1) for p in group["params"]]
    assert sorted(found) == sorted(id(p) for p in model.parameters())


def test_matrices_decay_and_nothing_else() -> None:
    model = tiny_model(moe_layers=(1,))
    names = {id(p): name for name, p in model.named_parameters()}
    decayed, rest = parameter_groups(model, weight_decay=0.1)
    assert (decayed["weight_decay"], rest["weight_decay"]) == (0.1, 0.0)
    assert {names[id(p)] for p in decayed["params"]} == {
        "image_embed.patch_embed.proj.weight",
        *(f"tower.blocks.{i}.attn.{name}.weight" for i in (0, 1) for name in ("qkv", "proj")),
        "tower.blocks.0.mlp.fc1.weight",
        "tower.blocks.0.mlp.fc2.weight",
        "tower.blocks.1.mlp.router.weight",
        "tower.blocks.1.mlp.experts.weight_in",
        "tower.blocks.1.mlp.experts.weight_out",
        "image_head.weight",
        "text_head.weight",
    }
    stacked_biases = {"tower.blocks.1.mlp.experts.bias_in", "tower.blocks.1.mlp.experts.bias_out"}
    assert stacked_biases <= {names[id(p)] for p in rest["params"]}


@pytest.mark.parametrize("factory", FACTORIES)
def test_without_gradient_signal_only_decay_moves_and_by_lr_times_decay(factory: Callable[..., Any]) -> None:
    """Gradients of zero: matrices shrink by 1 - lr * decay = 1 - 0.01 * 0.5, the rest stays."""
    model = tiny_model()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = factory(model, lr=0.01, weight_decay=0.5)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    decayed = {id(p) for p in parameter_groups(model, weight_decay=0.5)[0]["params"]}
    for name, parameter in model.named_parameters():
        shrink = 1 - 0.01 * 0.5 if id(parameter) in decayed else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * shrink, rtol=1e-6, atol=1e-9, msg=name)


@pytest.mark.parametrize("factory", FACTORIES)
def test_one_step_moves_every_parameter_that_has_a_gradient(factory: Callable[..., Any]) -> None:
    model, batch = tiny_model(router={"capacity_factor": None}), tiny_batch()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = factory(model, lr=0.01, weight_decay=0.0)
    output = model(batch.images, batch.text_ids, batch.text_mask)
    SoftmaxContrastive()(output.image_features, output.text_features, output.logit_scale).backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        assert parameter.isfinite().all(), name
        assert torch.equal(parameter, before[name]) == (not parameter.grad.any()), name


def test_adamw_first_step_by_hand() -> None:
    """Adam's first update is lr * sign(g); decay first: 2 * (1 - 0.1 * 0.5) - 0.1 = 1.8."""
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(2.0)
    model.weight.grad = torch.full((1, 1), 3.0)
    adamw(model, lr=0.1, weight_decay=0.5).step()
    assert model.weight.item() == pytest.approx(1.8, abs=1e-6)


def test_adafactor_first_step_by_hand() -> None:
    """Unfactored: u = g / |g| = 1; momentum 0.9, not debiased: 0.1 of it; lr 0.1: 2 - 0.01."""
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(2.0)
    model.weight.grad = torch.full((1, 1), 3.0)
    adafactor(model, lr=0.1, weight_decay=0.0).step()
    assert model.weight.item() == pytest.approx(1.99, abs=1e-4)
    model.weight.data.fill_(2.0)
    adafactor(model, lr=0.1, weight_decay=0.0, beta1=0.5).step()
    assert model.weight.item() == pytest.approx(1.95, abs=1e-4)


@pytest.mark.parametrize(
    ("shape", "numbers"),
    [((31, 64), 31 * 64), ((32, 64), 32 + 64), ((8, 40, 64), 8 * 40 + 8 * 64), ((64,), 64)],
)
def test_adafactor_factors_two_axes_of_at_least_32(shape: tuple[int, ...], numbers: int) -> None:
    """Second-moment numbers kept: a router of 31 experts in full, stacked experts by row and column of each."""
    model = nn.ParameterDict({"weight": nn.Parameter(torch.randn(shape))})
    optimizer = adafactor(model, lr=0.1)
    model["weight"].grad = torch.randn(shape)
    optimizer.step()
    state = optimizer.state[model["weight"]]
    assert sum(value.numel() for key, value in state.items() if "sq" in key) == numbers
    assert next(value for key, value in state.items() if key == "exp_avg").dtype == torch.bfloat16


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize(("key", "value"), [("lr", 0.0), ("lr", -1.0), ("weight_decay", -0.1)])
def test_bad_settings(factory: Callable[..., Any], key: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"^{key} must be .* got {value}"):
        factory(nn.Linear(1, 1), **{"lr": 0.1, key: value})


def test_bad_betas() -> None:
    with pytest.raises(ValueError, match=r"^betas must be in \[0, 1\), got \[0\.9, 1\.0\]"):
        adamw(nn.Linear(1, 1), lr=0.1, betas=(0.9, 1.0))
