"""Expert choice, soft routing and rounded capacities against numbers of the JAX reference (vmoe)."""

from functools import partial

import numpy as np
import pytest
import torch

from limoe.models.moe import MoE
from limoe.routing.dispatch import expert_capacity
from limoe.routing.expert_choice import ExpertChoiceDispatcher, ExpertChoiceRouter
from limoe.routing.soft import SoftRouter
from limoe.types import BUFFERS, ExpertTokens
from tests.helpers.builders import packed_groups
from tests.helpers.reference import PRECISIONS, arrays, cases, close, fix_noise, table

TOLERANCE = {"f32": 1e-5, "f64": 1e-10}
EXPERT_CHOICE = ["e01_ec_det", "e02_ec_noise_cf2", "e03_ec_mult4", "e04_ec_dup_ties", "e05_ec_cap1", "e06_ec_mm"]
SOFT = ["s01", "s02", "s03_scale", "s04_more_slots_than_tokens"]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", EXPERT_CHOICE)
def test_expert_choice_layer(monkeypatch: pytest.MonkeyPatch, name: str, precision: str) -> None:
    case, golden = cases("moe_layer")[name], arrays("moe_layer")
    dtype, tolerance = PRECISIONS[precision], TOLERANCE[precision]
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
        fix_noise(monkeypatch, golden[f"{name}/eps"])
    values = {"weight_in": "W1", "bias_in": "b1", "weight_out": "W2", "bias_out": "b2"}
    for ours, theirs in values.items():
        getattr(layer.experts, ours).data = torch.from_numpy(golden[f"{name}/{theirs}"]).to(dtype)
    layer.router.weight.data = torch.from_numpy(golden[f"{name}/W"]).to(dtype).T.contiguous()
    x = torch.from_numpy(golden[f"{name}/x"]).to(dtype).requires_grad_()
    y, routed = layer(x.flatten(0, 1), packed_groups(groups=groups, length=case["group_size"]))
    close(y.view_as(x), golden[f"{name}/y"], tolerance)

    cotangent = torch.from_numpy(golden[f"{name}/cot"]).to(dtype)
    leaves = [x, layer.router.weight, *(getattr(layer.experts, ours) for ours in values)]
    found = torch.autograd.grad((y.view_as(x) * cotangent).sum(), leaves)
    for key, gradient in zip(("x", "W", *values.values()), found, strict=True):
        close(gradient.T if key == "W" else gradient, golden[f"{name}/dtask_{key}"], tolerance)

    processed = golden[f"{name}/met_ratio_processed_items_by_at_least_1_experts"]
    close(routed.kept.view(groups, -1).double().mean(1), processed, 1e-6)
    dispatcher, _ = layer.router(x.flatten(0, 1), packed_groups(groups=groups, length=case["group_size"]))
    assert isinstance(dispatcher, ExpertChoiceDispatcher)
    taken = (dispatcher.weight.detach() > 0).float().view(-1)
    times = torch.zeros(x[..., 0].numel()).index_add(0, dispatcher.token.view(-1), taken)
    close(times.view(groups, -1).amax(1), golden[f"{name}/met_num_experts_per_item_max"], 0)
    close(times.view(groups, -1).amin(1), golden[f"{name}/met_num_experts_per_item_min"], 0)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", SOFT)
def test_soft_router(name: str, precision: str) -> None:
    """The path without the reference's bfloat16 casts of the data; ours follow the precision of the run."""
    case, golden = cases("soft_router")[name], arrays("soft_router")
    dtype, tolerance = PRECISIONS[precision], TOLERANCE[precision]
    groups, length, dim, experts, slots = (case[key] for key in ("G", "S", "D", "E", "num_slots"))
    assert case["num_slots_given"] is not None or slots == round(length * case["capacity_factor"] / experts)
    router = SoftRouter(dim, num_experts=experts, slots_per_expert=slots).to(dtype)
    mu = torch.from_numpy(golden[f"{name}/mu"]).to(dtype)
    router.weight.data = mu.flatten(1).T.contiguous()
    router.scale.data = torch.from_numpy(golden[f"{name}/scale"]).to(dtype)
    x = torch.from_numpy(golden[f"{name}/x"]).to(dtype).requires_grad_()
    dispatcher, routed = router(x.flatten(0, 1), packed_groups(groups=groups, length=length))

    dispatch, combine = (
        dispatcher.dispatch_weights[0].view(groups, length, experts, slots),
        dispatcher.combine_weights.view(groups, length, experts, slots),
    )
    close(dispatch, golden[f"{name}/dispatch"], tolerance)
    close(combine, golden[f"{name}/combine"], tolerance)
    torch.testing.assert_close(routed.gates.view(groups, length, experts), combine.sum(-1))
    rows = dispatcher.dispatch(x.flatten(0, 1), BUFFERS).tokens
    close(rows, golden[f"{name}/slots"], tolerance)
    close(dispatcher.combine(ExpertTokens(rows.tanh())).view_as(x), golden[f"{name}/y"], tolerance)

    cotangents = [torch.from_numpy(golden[f"{name}/{key}"]).to(dtype) for key in ("cd", "cc")]
    scalar = (dispatch * cotangents[0]).sum() + (combine * cotangents[1]).sum()
    d_x, d_weight, d_scale = torch.autograd.grad(scalar, [x, router.weight, router.scale])
    close(d_x, golden[f"{name}/d_x"], tolerance)
    close(d_weight.T.view_as(mu), golden[f"{name}/d_mu"], tolerance)
    close(d_scale, golden[f"{name}/d_scale"], tolerance)


def test_capacity_table_with_both_roundings() -> None:
    """Where rounding gives 0 slots the reference raises and we give one slot (then a multiple)."""
    rows = table("capacity_table")["rows"]
    refused = 0
    for tokens, experts, factor, rounding, multiple, expected in rows:
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
    assert (len(rows), refused) == (3360, 255)


def test_every_case_is_tested() -> None:
    assert [name for name in cases("moe_layer") if name.startswith("e")] == EXPERT_CHOICE
    assert list(cases("soft_router")) == SOFT
    assert np.isfinite(arrays("soft_router")["s01/y"]).all()
