"""Expert choice, soft routing and rounded capacities against numbers of the JAX reference (vmoe)."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import flat_stream
from test_golden import PRECISIONS, arrays, cases, close, fix_noise

from limoe.models.moe import MoE
from limoe.routing.dispatch import expert_capacity
from limoe.routing.expert_choice import ExpertChoicePlan, ExpertChoiceRouter
from limoe.routing.soft import SoftRouter

TOLERANCE = {"f32": 1e-5, "f64": 1e-10}
EXPERT_CHOICE = ["e01_ec_det", "e02_ec_noise_cf2", "e03_ec_mult4", "e04_ec_dup_ties", "e05_ec_cap1", "e06_ec_mm"]
SOFT = ["s01", "s02", "s03_scale", "s04_more_slots_than_tokens"]


@pytest.fixture
def golden(shared: Path) -> Path:
    return shared / "golden"


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", EXPERT_CHOICE)
def test_expert_choice_layer(golden: Path, monkeypatch: pytest.MonkeyPatch, name: str, precision: str) -> None:
    case, given = cases(golden, "moe_layer_f32")[name], arrays(golden, "moe_layer_f32")
    expected, dtype, tolerance = arrays(golden, f"moe_layer_{precision}"), PRECISIONS[precision], TOLERANCE[precision]
    dispatcher, groups = case["router"]["dispatcher"], case["G"]
    factor = dispatcher.get("capacity_factor")
    router = partial(
        ExpertChoiceRouter,
        noise_std=case["router"]["noise_std"],
        capacity_factor=factor,
        eval_capacity_factor=factor,
        capacity_rounding=dispatcher["capacity_ceil_or_round"],
        capacity_multiple_of=dispatcher["capacity_multiple_of"],
        pairs_per_group=1,
    )
    layer = MoE(case["D"], hidden_dim=case["H"], num_experts=case["E"], router=router).to(dtype)
    layer.train(not case["deterministic"])
    if layer.training:
        fix_noise(monkeypatch, given[f"{name}/eps"])
    values = {"weight_in": "W1", "bias_in": "b1", "weight_out": "W2", "bias_out": "b2"}
    for ours, theirs in values.items():
        getattr(layer.experts, ours).data = torch.from_numpy(given[f"{name}/{theirs}"]).to(dtype)
    layer.router.weight.data = torch.from_numpy(given[f"{name}/W"]).to(dtype).T.contiguous()
    x = torch.from_numpy(given[f"{name}/x"]).to(dtype).requires_grad_()
    y, routed = layer(x.flatten(0, 1), flat_stream(groups=groups, length=case["group_size"]))
    close(y.view_as(x), expected[f"{name}/y"], tolerance)

    cotangent = torch.from_numpy(given[f"{name}/cot"]).to(dtype)
    leaves = [x, layer.router.weight, *(getattr(layer.experts, ours) for ours in values)]
    found = torch.autograd.grad((y.view_as(x) * cotangent).sum(), leaves)
    for key, gradient in zip(("x", "W", *values.values()), found, strict=True):
        close(gradient.T if key == "W" else gradient, expected[f"{name}/dtask_{key}"], tolerance)

    processed = expected[f"{name}/met_ratio_processed_items_by_at_least_1_experts"]
    close(routed.kept.view(groups, -1).double().mean(1), processed, 1e-6)
    assert isinstance(routed.plan, ExpertChoicePlan)
    times = torch.zeros(x[..., 0].numel()).index_add(
        0, routed.plan.token.view(-1), (routed.plan.weight.detach() > 0).float().view(-1)
    )
    close(times.view(groups, -1).amax(1), expected[f"{name}/met_num_experts_per_item_max"], 0)
    close(times.view(groups, -1).amin(1), expected[f"{name}/met_num_experts_per_item_min"], 0)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", SOFT)
def test_soft_router(golden: Path, name: str, precision: str) -> None:
    """The path without the reference's bfloat16 casts of the data; ours follow the precision of the run."""
    case, given = cases(golden, "soft_router_f32")[name], arrays(golden, "soft_router_f32")
    expected, dtype, tolerance = arrays(golden, f"soft_router_{precision}"), PRECISIONS[precision], TOLERANCE[precision]
    groups, length, dim, experts, slots = (case[key] for key in ("G", "S", "D", "E", "num_slots"))
    assert case["num_slots_given"] is not None or slots == round(length * case["capacity_factor"] / experts)
    router = SoftRouter(dim, num_experts=experts, slots_per_expert=slots).to(dtype)
    mu = torch.from_numpy(given[f"{name}/mu"]).to(dtype)
    router.weight.data = mu.flatten(1).T.contiguous()
    router.scale.data = torch.from_numpy(given[f"{name}/scale"]).to(dtype)
    x = torch.from_numpy(given[f"{name}/x"]).to(dtype).requires_grad_()
    routed = router(x.flatten(0, 1), flat_stream(groups=groups, length=length))

    plan = routed.plan
    dispatch, combine = (
        plan.mix[0].view(groups, length, experts, slots),
        plan.share.view(groups, length, experts, slots),
    )
    close(dispatch, expected[f"{name}/dispatch"], tolerance)
    close(combine, expected[f"{name}/combine"], tolerance)
    torch.testing.assert_close(routed.gates.view(groups, length, experts), combine.sum(-1))
    rows = plan.dispatch(x.flatten(0, 1))
    close(rows, expected[f"{name}/slots"], tolerance)
    close(plan.combine(rows.tanh()).view_as(x), expected[f"{name}/y"], tolerance)

    cotangents = [torch.from_numpy(given[f"{name}/{key}"]).to(dtype) for key in ("cd", "cc")]
    scalar = (dispatch * cotangents[0]).sum() + (combine * cotangents[1]).sum()
    d_x, d_weight, d_scale = torch.autograd.grad(scalar, [x, router.weight, router.scale])
    close(d_x, expected[f"{name}/d_x"], tolerance)
    close(d_weight.T.view_as(mu), expected[f"{name}/d_mu"], tolerance)
    close(d_scale, expected[f"{name}/d_scale"], tolerance)


def test_capacity_table_with_both_roundings(golden: Path) -> None:
    """Where rounding gives 0 seats the reference raises and we give one seat (then a multiple)."""
    table = json.loads((golden / "capacity_table.json").read_text())
    refused = 0
    for tokens, experts, factor, rounding, multiple, expected in table["rows"]:
        settings = {"capacity_factor": factor, "rounding": rounding, "multiple_of": multiple or 1}
        found = expert_capacity(tokens, num_experts=experts, **settings)
        assert found == ((multiple or 1) if expected is None else expected), (
            tokens,
            experts,
            factor,
            rounding,
            multiple,
        )
        refused += expected is None
    assert (len(table["rows"]), refused) == (3360, 255)


def test_every_case_is_tested(golden: Path) -> None:
    assert [name for name in cases(golden, "moe_layer_f32") if name.startswith("e")] == EXPERT_CHOICE
    assert list(cases(golden, "soft_router_f32")) == SOFT
    assert np.isfinite(arrays(golden, "soft_router_f64")["s01/y"]).all()
