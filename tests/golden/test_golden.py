"""Numbers of the JAX reference (vmoe, big_vision) and of a NumPy oracle, kept in `tests/golden`.

Groups lie one after the other in our flat token dimension; our losses take one group at a time.
"""

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from limoe.losses.auxiliary.base import AuxLoss
from limoe.losses.auxiliary.classic import Balance, Importance, Load, ZLoss
from limoe.losses.auxiliary.entropy import GlobalEntropy, LocalEntropy
from limoe.losses.contrastive import SigmoidContrastive, SoftmaxContrastive
from limoe.models.moe import MoE
from limoe.routing.dispatch import expert_capacity
from limoe.routing.priority import bpr, first_come
from limoe.routing.token_choice import TopKRouter, top_k_index
from limoe.training.schedules import cosine, rsqrt
from limoe.types import BUFFERS, IMAGE, TEXT, ExpertTokens
from tests.helpers.builders import decide, packed_groups, router_output, slot_dispatcher
from tests.helpers.reference import PRECISIONS, arrays, cases, close, fix_noise, group_losses, table

ROUTER = [
    *("r01", "r02", "r03", "r04_few_tokens", "r05_few_tokens_k2", "r06_mm_k1", "r07_mm_k2", "r08_k_eq_e"),
    *("r09_ties", "r10_ties_k2", "r11_uniform", "r12_one_expert", "r13_large_logits"),
]
NAN_IN_REFERENCE = {"r11_uniform", "r12_one_expert"}  # its std has an infinite slope at uniform gates; ours is finite


# ---------------------------------------------------------------- router and classic losses


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("mode", ["det", "noisy"])
@pytest.mark.parametrize("name", ROUTER)
def test_router(monkeypatch: pytest.MonkeyPatch, name: str, mode: str, precision: str) -> None:
    case, golden = cases("router")[name], arrays("router")
    tolerance = {"f32": 5e-5 if "large" in name else 1e-5, "f64": 1e-9}[precision]
    dtype, groups = PRECISIONS[precision], case["G"]
    x = torch.from_numpy(golden[f"{name}/x"]).to(dtype).flatten(0, 1).requires_grad_()
    settings = {"k": case["K"], "noise_std": case["noise_std"], "capacity_factor": None, "priority": bpr}
    router = TopKRouter(case["D"], num_experts=case["E"], **settings).to(dtype).train(mode == "noisy")
    router.weight.data = torch.from_numpy(golden[f"{name}/W"]).to(dtype).T.contiguous()
    fix_noise(monkeypatch, golden[f"{name}/eps"])
    routed = decide(router, x, packed_groups(groups=groups, length=case["S"]))

    shape = (groups, case["S"], -1)
    close(routed.logits.view(shape), golden[f"{name}/logits"], tolerance)
    close(routed.gates.view(shape), golden[f"{name}/{mode}_gates"], tolerance)
    assert routed.expert_index.view(shape).numpy().tolist() == golden[f"{name}/{mode}_topk_idx"].tolist()
    close(routed.gate.view(shape), golden[f"{name}/{mode}_topk_w"], tolerance)
    cotangent = torch.from_numpy(golden[f"{name}/cot"]).to(dtype).view_as(routed.gates)
    scalars = {"gates": (routed.gates * cotangent).sum()}
    terms = {"importance_loss": Importance(), "gshard_loss": Balance()}
    terms |= {"load_loss": Load()} if mode == "noisy" else {}
    counts_in_float32 = {"gshard_loss": max(tolerance, 1e-7)}  # the reference's shares of first choices always are
    for key, term in terms.items():
        losses = group_losses(term, routed, groups)
        close(losses, golden[f"{name}/{mode}_{key}"], counts_in_float32.get(key, tolerance))
        scalars[key] = losses.mean()
    for key, scalar in scalars.items():
        dx, dw = torch.autograd.grad(scalar, [x, router.weight], retain_graph=True)
        if name in NAN_IN_REFERENCE and key != "gates":
            assert dx.isfinite().all() and dw.isfinite().all()
            continue
        close(dx.view(shape), golden[f"{name}/{mode}_d_{key}_dx"], counts_in_float32.get(key, tolerance))
        close(dw.T, golden[f"{name}/{mode}_d_{key}_dW"], counts_in_float32.get(key, tolerance))


# ---------------------------------------------------------------- slots

DISPATCH = [
    *("d01", "d02_mult4", "d03_k2", "d04_k2_half", "d05_cap1", "d06_cap1_k2", "d07_few", "d08_few_k2"),
    *("d09_uniform", "d10_uniform_k2", "d11_quant", "d12_quant_k2", "d13_skew", "d14_skew_k2", "d15_k3", "d16_k_eq_e"),
    *("d17_cf2", "d18_round", "d19_mm_img_sharp", "d20_mm_txt_sharp", "d21_mm_skew_txt", "d22_mm_pad", "d23_mm_k2"),
    *("d24_mm_cap1", "d25_group_div"),
]


@pytest.mark.parametrize("order", ["van", "bpr"])
@pytest.mark.parametrize("name", DISPATCH)
def test_dispatch(name: str, order: str) -> None:
    case, golden = cases("dispatch")[name], arrays("dispatch")
    gates = torch.from_numpy(golden[f"{name}/gates"]).flatten(0, 1)
    index = top_k_index(gates, case["K"])
    gate = gates.gather(1, index)
    dispatcher, kept = slot_dispatcher(
        index,
        gate=gate,
        score=gate[:, 0] if order == "bpr" else torch.zeros(len(gates)),
        group=torch.arange(case["G"]).repeat_interleave(case["S"]),
        valid=torch.ones(len(gates), dtype=torch.bool),
        num_experts=case["E"],
        num_groups=case["G"],
        capacity=case["capacity"],
    )
    row, capacity = dispatcher.row_index(BUFFERS).row, dispatcher.capacity
    assert capacity is not None
    shape = (case["G"], case["S"], case["K"])
    assert index.view(shape).tolist() == golden[f"{name}/{order}_expert_idx"].tolist()
    position = golden[f"{name}/{order}_buffer_idx"]
    assert kept.view(shape).tolist() == (position < case["capacity"]).tolist()
    slot = (row % capacity).view(shape)
    assert np.where(kept.view(shape), slot, -1).tolist() == np.where(kept.view(shape), position, -1).tolist()
    assert (~kept).sum() == case[f"{order}_dropped_choices"]
    assert (~kept).all(1).sum() == case[f"{order}_fully_dropped_tokens"]

    if case["n_img"] is not None:  # d21: batch order serves 5 of 32 texts, BPR 18
        served = kept.any(1).view(shape[:2]).double()
        assert served[:, : case["n_img"]].mean().item() == pytest.approx(case[f"{order}_img_success"])
        assert served[:, case["n_img"] :].mean().item() == pytest.approx(case[f"{order}_txt_success"])

    rows = dispatcher.dispatch(torch.from_numpy(golden[f"{name}/x"]).flatten(0, 1), BUFFERS).tokens
    used = torch.zeros(rows.shape[:2], dtype=torch.bool).view(-1)
    used[row[kept]] = True
    used = used.view(case["E"], case["G"], capacity)
    filled = golden[f"{name}/{order}_token_at"].transpose(1, 0, 2) >= 0
    assert not filled[..., capacity:].any()  # ours has no more slots than the fullest expert needs
    assert used.tolist() == filled[..., :capacity].tolist() and used.sum() == kept.sum()
    if case["G"] % case["E"]:  # otherwise the reference permutes the groups inside its buffer
        dispatched = golden[f"{name}/{order}_dispatched"].reshape(*filled.shape, -1)[..., :capacity, :]
        close(rows.view(dispatched.shape) * used[..., None], dispatched, 0)
    number = torch.arange(1.0, case["E"] + 1)[:, None, None]
    combined = dispatcher.combine(ExpertTokens(2 * rows + number))
    close(combined.view(*shape[:2], -1), golden[f"{name}/{order}_combined"], 1e-6)


def test_capacity_table() -> None:
    tested = 0
    for tokens, experts, factor, rounding, multiple, capacity in table("capacity_table")["rows"]:
        if rounding == "ceil":
            found = expert_capacity(
                tokens, num_experts=experts, capacity_factor=factor, multiple_of=1 if multiple is None else multiple
            )
            assert found == capacity, (tokens, experts, factor, multiple)
            tested += 1
    assert tested == 1680


# ---------------------------------------------------------------- the whole layer

MOE = [
    *("m01_k1_det", "m02_k1_noise", "m03_k2_bpr", "m04_k2_vanilla", "m05_cap1_bpr", "m06_cap1_k2", "m07_few_tokens"),
    *("m08_indices_k2_bpr", "m09_groups_across_seqs", "m10_groups_eq_experts", "m11_dup_tokens_bpr_det", "m12_mm_bpr"),
    *("m13_mm_vanilla", "m14_mm_two_seqs_per_group", "m16_noise_in_eval", "m17_noise_std0", "m18_big_drop"),
    "m19_one_expert",
]


def reference_layer(case: dict[str, Any], name: str, dtype: torch.dtype) -> MoE:
    dispatcher = case["router"]["dispatcher"]
    factor = dispatcher.get("capacity_factor", 1e-9)  # "capacity": 1 there
    assert dispatcher.get("capacity", 1) == 1
    router = partial(
        TopKRouter,
        priority=bpr if dispatcher["batch_priority"] else first_come,
        k=case["K"],
        noise_std=case["router"]["noise_std"],
        capacity_factor=factor,
        eval_capacity_factor=factor,
        capacity_multiple_of=dispatcher.get("capacity_multiple_of") or 1,
        pairs_per_group=1,
    )
    golden = arrays("moe_layer")
    layer = MoE(case["D"], hidden_dim=case["H"], num_experts=case["E"], router=router).to(dtype)
    values = {"weight_in": "W1", "bias_in": "b1", "weight_out": "W2", "bias_out": "b2"}
    for ours, theirs in values.items():
        getattr(layer.experts, ours).data = torch.from_numpy(golden[f"{name}/{theirs}"]).to(dtype)
    layer.router.weight.data = torch.from_numpy(golden[f"{name}/W"]).to(dtype).T.contiguous()
    return layer.train(f"{name}/eps" in golden)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", MOE)
def test_moe_layer(monkeypatch: pytest.MonkeyPatch, name: str, precision: str) -> None:
    case, golden = cases("moe_layer")[name], arrays("moe_layer")
    dtype, tolerance = PRECISIONS[precision], {"f32": 1e-5, "f64": 1e-9}[precision]
    layer = reference_layer(case, name, dtype)
    if layer.training:
        fix_noise(monkeypatch, golden[f"{name}/eps"])
    x = torch.from_numpy(golden[f"{name}/x"]).to(dtype).requires_grad_()
    groups = case["G"]
    y, routed = layer(x.flatten(0, 1), packed_groups(groups=groups, length=case["group_size"]))
    close(y.view_as(x), golden[f"{name}/y"], tolerance)

    cotangent = torch.from_numpy(golden[f"{name}/cot"]).to(dtype)
    experts = layer.experts
    leaves = [x, layer.router.weight, experts.weight_in, experts.bias_in, experts.weight_out, experts.bias_out]
    found = torch.autograd.grad((y.view_as(x) * cotangent).sum(), leaves, retain_graph=True)
    for key, gradient in zip(("x", "W", "W1", "b1", "W2", "b2"), found, strict=True):
        close(gradient.T if key == "W" else gradient, golden[f"{name}/dtask_{key}"], tolerance)
    weights = case["router"]
    if case["E"] == 1 or weights["gshard_loss_weight"]:
        return  # no loss, or one that is not ours
    aux = weights["importance_loss_weight"] * group_losses(Importance(), routed, groups)
    if routed.noise_std > 0:
        aux = aux + weights["load_loss_weight"] * group_losses(Load(), routed, groups)
    close(aux, golden[f"{name}/met_auxiliary_loss"], tolerance)
    dx, dw = torch.autograd.grad(aux.mean(), [x, layer.router.weight])
    close(dx, golden[f"{name}/daux_x"], tolerance)
    close(dw.T, golden[f"{name}/daux_W"], tolerance)


# ---------------------------------------------------------------- entropies and z

ENTROPY = [
    *("o01", "o02_two_groups", "o03_collapsed_text", "o04_uniform", "o05_saturated", "o06_onehot_balanced", "o07_pad"),
    *("o08_few_tokens_many_experts", "o09_single_text_token", "o10_threshold_off", "o11_threshold_on"),
]


TWO_GROUPS = ["o02_two_groups", "o03_collapsed_text", "o07_pad"]


@pytest.mark.parametrize(
    ("name", "reduction"), [*((name, "batch") for name in ENTROPY), *((name, "group") for name in TWO_GROUPS)]
)
def test_entropy_losses(name: str, reduction: str) -> None:
    """`batch` pools the tokens of all groups; `group` is the mean over groups."""
    case, golden = cases("limoe_oracle")[name], arrays("limoe_oracle")
    logits = torch.from_numpy(golden[f"{name}/logits"]).requires_grad_()
    flat = logits.flatten(0, 1)
    text = torch.from_numpy(golden[f"{name}/is_text"]).repeat(case["G"])
    routed = router_output(flat, modality=torch.where(text, TEXT, IMAGE))
    groups = 1 if reduction == "batch" else case["G"]
    terms: dict[str, AuxLoss] = {"all_zloss": ZLoss()} if reduction == "batch" else {}
    for short, modality in (("img", "image"), ("txt", "text")):
        wanted = math.exp(case[f"tau_{short}"])
        terms[f"{short}_local"] = LocalEntropy(modality=modality)
        terms[f"{short}_glob"] = GlobalEntropy(modality=modality)
        terms[f"{short}_glob_thr"] = GlobalEntropy(modality=modality, min_experts=wanted)
    for key, term in terms.items():
        loss = group_losses(term, routed, groups).mean()
        close(loss, golden[f"{name}/{key}_{reduction}"], 1e-9)
        (gradient,) = torch.autograd.grad(loss, logits, retain_graph=True)
        close(gradient, golden[f"{name}/{key}_{reduction}_dlogits"], 1e-9)


# ---------------------------------------------------------------- contrastive


CONTRASTIVE = ["c01_rand", "c02_aligned", "c03_t1", "c04_dups", "c05_hot"]


def contrastive_inputs(name: str, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
    """Raw features and log temperature, and the features normalised with z / (|z| + 1e-8) as there."""
    golden = arrays("contrastive")
    inputs = [torch.from_numpy(golden[f"{name}/{key}"]) for key in ("zimg_raw", "ztxt_raw", "s")]
    raw = [value.to(dtype).requires_grad_() for value in inputs]
    return raw, [z / (z.norm(dim=-1, keepdim=True) + 1e-8) for z in raw[:2]]


@pytest.mark.parametrize("chunk_size", [None, 3])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", CONTRASTIVE)
def test_softmax_contrastive(name: str, precision: str, chunk_size: int | None) -> None:
    """Also the loss and gradients of four simulated devices."""
    golden = arrays("contrastive")
    dtype, tolerance = PRECISIONS[precision], {"f32": 1e-5, "f64": 1e-9}[precision]
    (image, text, log_scale), unit = contrastive_inputs(name, dtype)
    loss = SoftmaxContrastive(chunk_size=chunk_size)(*unit, log_scale.exp())
    close(loss, golden[f"{name}/soft_loss"], tolerance)
    close(loss, golden[f"{name}/dev4_softmax_loss_pmean"], tolerance)
    gradients = torch.autograd.grad(loss, [image, text, log_scale])
    for key, gradient in zip(("zimg_raw", "ztxt_raw", "s"), gradients, strict=True):
        close(gradient, golden[f"{name}/soft_d_{key}"], tolerance)
    close(gradients[2], golden[f"{name}/dev4_softmax_d_s_pmean"], tolerance)


@pytest.mark.parametrize("chunk_size", [None, 3])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", CONTRASTIVE)
def test_sigmoid_contrastive(name: str, precision: str, chunk_size: int | None) -> None:
    """The loss of vmoe, and of big_vision on four simulated devices."""
    golden = arrays("contrastive")
    dtype, tolerance = PRECISIONS[precision], {"f32": 1e-5, "f64": 1e-9}[precision]
    (image, text, log_scale), unit = contrastive_inputs(name, dtype)
    sigmoid = SigmoidContrastive(chunk_size=chunk_size).to(dtype)
    sigmoid.bias.data = torch.from_numpy(golden[f"{name}/b"].copy()).to(dtype)
    loss = sigmoid(*unit, log_scale.exp())
    close(loss, golden[f"{name}/sig_loss"], tolerance)
    close(loss, golden[f"{name}/dev4_sigmoid_loss_pmean"], tolerance)
    gradients = torch.autograd.grad(loss, [image, text, log_scale, sigmoid.bias])
    for key, gradient in zip(("zimg_raw", "ztxt_raw", "s", "b"), gradients, strict=True):
        close(gradient, golden[f"{name}/sig_d_{key}"], tolerance)
    close(gradients[3], golden[f"{name}/dev4_sigmoid_d_b_pmean"], tolerance)


# ---------------------------------------------------------------- schedules


@pytest.mark.parametrize(
    ("name", "schedule"),
    [
        ("bv_rsqrt_w0_c0", rsqrt(total_steps=1000, warmup=0, cooldown=0, timescale=50)),
        ("bv_rsqrt_w10_c0", rsqrt(total_steps=1000, warmup=10, cooldown=0, timescale=50)),
        ("bv_rsqrt_w10_c100", rsqrt(total_steps=1000, warmup=10, cooldown=100, timescale=50)),
        ("bv_rsqrt_w0_c100", rsqrt(total_steps=1000, warmup=0, cooldown=100, timescale=50)),
        ("bv_rsqrt_w100_c200", rsqrt(total_steps=1000, warmup=100, cooldown=200, timescale=50)),
        ("bv_rsqrt_big", rsqrt(total_steps=500_000, warmup=10_000, cooldown=50_000)),
        ("bv_cosine", cosine(total_steps=1000, warmup=10)),
        ("v_rsqrt_w0_c0", rsqrt(total_steps=1000, warmup=0, cooldown=0, timescale=50)),
        ("v_rsqrt_w10_c0", rsqrt(total_steps=1000, warmup=10, cooldown=0, timescale=50)),
        ("v_cosine", cosine(total_steps=1000, warmup=10, final_factor=0.01)),
    ],
)
def test_learning_rates(name: str, schedule: Any) -> None:
    golden = arrays("schedule")
    steps, rates = golden[f"{name}/step"].tolist(), golden[f"{name}/lr"]
    assert [schedule(step) for step in steps] == pytest.approx((rates / 1e-3).tolist(), rel=2e-6, abs=1e-7)


def test_cooldown_of_the_other_reference_freezes_the_root() -> None:
    """vmoe's cooldown is linear from the value at its start; big_vision's, ours, multiplies the root that goes on."""
    golden = arrays("schedule")
    ours = rsqrt(total_steps=1000, warmup=10, cooldown=100, timescale=50)
    theirs = dict(zip(golden["v_rsqrt_w10_c100/step"].tolist(), golden["v_rsqrt_w10_c100/lr"].tolist(), strict=True))
    assert ours(900) * 1e-3 == pytest.approx(theirs[900], rel=2e-6)
    for step in (950, 975):
        frozen = ours(900) * (1000 - step) / 100
        assert theirs[step] == pytest.approx(1e-3 * frozen, rel=2e-5)
        assert 0.94 < ours(step) / frozen < 1


def test_every_case_is_tested() -> None:
    assert list(cases("router")) == ROUTER
    assert list(cases("dispatch")) == DISPATCH
    assert [name for name in cases("moe_layer") if name.startswith("m")] == MOE
    assert list(cases("limoe_oracle")) == ENTROPY
    assert list(cases("contrastive")) == CONTRASTIVE
