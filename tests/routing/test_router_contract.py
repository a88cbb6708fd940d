"""What every option of configs/routing must keep, found by listing the folder; slots in thousands of random cases."""

import random
from functools import cache, partial
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from limoe.config.objects import instantiate
from limoe.config.places import register_resolvers
from limoe.models.limoe import LIMoE
from limoe.models.moe import MoE
from limoe.nn import StepUpdated
from limoe.routing import dispatch
from limoe.routing.base import Router
from limoe.routing.modality import PerModalityRouter
from limoe.routing.priority import bpr, first_come, image_first, text_first
from limoe.routing.token_choice import TokenChoiceRouter, TopKRouter
from limoe.types import BUFFERS, IMAGE, TEXT, Dispatcher, ExpertTokens, PackedTokens, RouterOutput
from tests.helpers import oracle
from tests.helpers.builders import TINY, layouts, packed_pairs, tiny_batch
from tests.helpers.paths import CONFIGS

OPTIONS = sorted(path.stem for path in (CONFIGS / "routing").glob("*.yaml"))
EXPERTS = 8


@cache
def factory(option: str) -> Any:
    register_resolvers()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return instantiate(compose("train", overrides=[f"routing={option}"]).routing)


def model(option: str, **settings: Any) -> LIMoE:
    router = partial(factory(option), **settings)
    return LIMoE(**TINY, moe_layers=[0, 1], num_experts=EXPERTS, router=router, expert_init="independent")


def layer(option: str, *, dim: int = 4, num_experts: int = EXPERTS, **settings: Any) -> MoE:
    router = partial(factory(option), **settings)
    return MoE(dim, hidden_dim=8, num_experts=num_experts, router=router, expert_init="independent")


def gradients(module: nn.Module) -> dict[str, Tensor | None]:
    return {name: parameter.grad for name, parameter in module.named_parameters()}


@pytest.mark.parametrize("option", OPTIONS)
def test_trains(option: str) -> None:
    """Every parameter of the model gets a finite gradient, and a router that learns a real one."""
    lit = model(option)
    batch = tiny_batch(pairs=8)
    output = lit(batch.images, batch.text_ids, batch.text_mask)
    logits = output.image_features @ output.text_features.T * output.logit_scale
    loss = nn.functional.cross_entropy(logits, torch.arange(8))
    loss.backward()
    found = gradients(lit)
    assert all(gradient is not None and gradient.isfinite().all() for gradient in found.values())
    for name, gradient in found.items():
        if "router" in name:
            assert gradient is not None and gradient.any(), name
    learns = {block.mlp.router.learns for block in lit.tower.blocks}
    assert learns == {any("router" in name for name in found)}


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("option", OPTIONS)
def test_what_a_router_says(option: str, mode: str) -> None:
    lit, batch = model(option).train(mode == "train"), tiny_batch(pairs=11)
    for routed in lit(batch.images, batch.text_ids, batch.text_mask).routing.values():
        assert routed.num_experts == EXPERTS
        assert routed.logits.dtype == routed.gates.dtype == torch.float32
        torch.testing.assert_close(routed.gates.sum(-1), torch.ones(len(routed.gates)))
        torch.testing.assert_close(routed.gates, routed.noisy_logits.softmax(-1))
        assert ((routed.expert_index >= 0) & (routed.expert_index < EXPERTS)).all()
        assert routed.logits.isfinite().all() and routed.log_probs.isfinite().all()
        assert ((routed.gate >= 0) & (routed.gate <= 1)).all()
        assert not routed.kept[~routed.valid].any()
        assert routed.valid.tolist() == [True] * (11 * 4) + batch.text_mask.flatten().tolist()
        if mode == "eval" and routed.capacity is None:
            assert routed.kept[routed.valid].all()


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("option", OPTIONS)
def test_padding_has_no_say(option: str, mode: str) -> None:
    lit, batch = model(option).train(mode == "train"), tiny_batch(pairs=8)
    features = []
    for padding in (0, 7):
        torch.manual_seed(0)
        ids = batch.text_ids.masked_fill(~batch.text_mask, padding)
        output = lit(batch.images, ids, batch.text_mask)
        features.append(torch.stack([output.image_features, output.text_features]))
    torch.testing.assert_close(*features)


@pytest.mark.parametrize("option", OPTIONS)
def test_count_pad_counts_it(option: str) -> None:
    batch = tiny_batch(pairs=8)
    output = model(option, count_pad=True)(batch.images, batch.text_ids, batch.text_mask)
    assert all(routed.valid.all() for routed in output.routing.values())


@pytest.mark.parametrize("limit", ["default", "tight"])
@pytest.mark.parametrize("option", OPTIONS)
def test_depends_on_batch_is_the_truth(option: str, limit: str) -> None:
    """In evaluation the features of an image alone equal those in a batch exactly where the router says so."""
    tight = {} if limit == "default" or option == "soft" else {"eval_capacity_factor": 0.5, "capacity_multiple_of": 1}
    lit, batch = model(option, **tight).eval(), tiny_batch(pairs=13)
    with torch.no_grad():
        together = lit.encode_text(batch.text_ids, batch.text_mask)
        alone = [lit.encode_text(batch.text_ids[[i]], batch.text_mask[[i]]) for i in range(13)]
    moved = (together - torch.cat(alone)).abs().max() > 1e-4
    assert moved == lit.tower.blocks[0].mlp.router.depends_on_batch


EXTREMES = {
    "equal": lambda x: torch.ones_like(x),
    "zero": lambda x: torch.zeros_like(x),
    "large": lambda x: x.sign() * 1e4,
    "tiny": lambda x: x * 1e-30,
}


@pytest.mark.parametrize("kind", EXTREMES)
@pytest.mark.parametrize("option", OPTIONS)
def test_extreme_tokens_stay_finite(option: str, kind: str) -> None:
    x = EXTREMES[kind](torch.randn(4 * 9, 4)).requires_grad_()
    packed = packed_pairs(pairs=4, image_tokens=6, text_tokens=3, text_mask=torch.rand(4, 3) < 0.5)
    sparse = layer(option)
    check_finite(sparse, x, packed)


def check_finite(sparse: MoE, x: Tensor, packed: PackedTokens) -> RouterOutput:
    y, routed = sparse(x, packed)
    entropies = -(routed.log_probs.exp() * routed.log_probs).sum()
    (y.sum() + routed.gate.sum() + entropies + routed.logits.logsumexp(-1).sum()).backward()
    assert y.shape == x.shape and y.isfinite().all()
    assert x.grad is not None and x.grad.isfinite().all()
    assert all(gradient is None or gradient.isfinite().all() for gradient in gradients(sparse).values())
    return routed


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("option", OPTIONS)
def test_no_token_to_route(option: str, mode: str) -> None:
    """Only padding; then no token at all."""
    sparse = layer(option).train(mode == "train")
    padding = packed_pairs(pairs=2, image_tokens=0, text_tokens=3, text_mask=torch.zeros(2, 3, dtype=torch.bool))
    x = torch.randn(6, 4, requires_grad=True)
    routed = check_finite(sparse, x, padding)
    assert not routed.kept.any() and not sparse(x, padding)[0].any()
    for pairs, length in ((0, 5), (3, 0)):
        nothing = packed_pairs(pairs=pairs, image_tokens=length, text_tokens=length)
        check_finite(sparse, torch.randn(0, 4, requires_grad=True), nothing)


@pytest.mark.parametrize("option", OPTIONS)
def test_one_expert(option: str) -> None:
    sizes: dict[str, Any] = {"sizes": {}} if option == "modality_experts" else {}
    sparse = layer(option, num_experts=1, **sizes)
    routed = check_finite(
        sparse, torch.randn(16, 4, requires_grad=True), packed_pairs(pairs=2, image_tokens=6, text_tokens=2)
    )
    assert (routed.gate == 1).all() and (routed.gates == 1).all()


@pytest.mark.parametrize("option", ["top_k", "per_modality", "modality_experts"])
def test_as_many_choices_as_experts(option: str) -> None:
    sizes: dict[str, Any] = {"sizes": {}} if option == "modality_experts" else {}
    sparse = layer(option, k=EXPERTS, **sizes)
    packed = packed_pairs(pairs=2, image_tokens=6, text_tokens=2)
    routed = check_finite(sparse, torch.randn(16, 4, requires_grad=True), packed)
    assert routed.expert_index.sort(-1).values.tolist() == [list(range(EXPERTS))] * 16
    torch.testing.assert_close(routed.gate.sum(-1), torch.ones(16))


@pytest.mark.parametrize("option", OPTIONS)
def test_no_shape_and_no_branch_depends_on_the_data(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors without content would raise where a value is asked for, which on a GPU is a wait for the device."""
    monkeypatch.setattr(dispatch, "trimmed_capacity", lambda demand, capacity: capacity)  # reads the data on a CPU
    balance = {"bias_balance": {"per_modality": True}} if option in ("top_k", "per_modality") else {}
    with FakeTensorMode():
        sparse = layer(option, **balance)
        packed = packed_pairs(pairs=4, image_tokens=6, text_tokens=3, text_mask=torch.ones(4, 3, dtype=torch.bool))
        x = torch.randn(36, 4, requires_grad=True)
        dispatcher, _ = sparse.router(x, packed)
        buffers = dispatcher.dispatch(x, BUFFERS)
        dispatcher.combine(buffers).sum().backward()
        for module in sparse.router.modules():
            if isinstance(module, StepUpdated):
                module.after_step()
    assert buffers.tokens.shape[0] == EXPERTS


# ---------------------------------------------------------------- slots in random cases

PRIORITIES = {
    bpr: lambda routed, packed: routed.gates.gather(1, routed.expert_index[:, :1])[:, 0].tolist(),
    first_come: lambda routed, packed: [0.0] * len(routed.gates),
    image_first: lambda routed, packed: (packed.modality == IMAGE).double().tolist(),
    text_first: lambda routed, packed: (packed.modality == TEXT).double().tolist(),
}


def random_case(number: int) -> tuple[TokenChoiceRouter, Tensor, PackedTokens]:
    """A router of any size on tokens with many exact ties."""
    draw = random.Random(number)
    pairs, experts = draw.choice([0, 1, 2, 3, 5]), draw.choice([1, 2, 3, 4, 8])
    image, text = draw.choice([0, 1, 4, 7]), draw.choice([0, 1, 3])
    generator = torch.Generator().manual_seed(number)
    mask = torch.rand(pairs, text, generator=generator) < draw.choice([0.0, 0.5, 1.0])
    packed = packed_pairs(pairs=pairs, image_tokens=image, text_tokens=text, text_mask=mask)
    settings = {
        "num_experts": experts,
        "k": draw.choice([1, 1, 2, experts]) if experts > 1 else 1,
        "noise_std": draw.choice([0.0, 1.0]),
        "renormalize_gates": draw.random() < 0.3,
        "bias_balance": draw.choice([None, None, {"rule": "z_score", "per_modality": True}]),
        "priority": draw.choice(list(PRIORITIES)),
        "capacity_factor": draw.choice([None, 0.3, 1.0, 1.05, 50.0]),
        "capacity_rounding": draw.choice(["ceil", "round"]),
        "capacity_multiple_of": draw.choice([1, 4]),
        "pairs_per_group": draw.choice([None, 1, 2, 3]),
        "count_pad": draw.random() < 0.2,
    }
    router = draw.choice([TopKRouter, PerModalityRouter])(2, **settings)
    router.weight.data = torch.randint(-1, 2, router.weight.shape, generator=generator).float()
    scale = draw.choice([0.0, 1.0, 1.0, 1e4])
    return router, torch.randint(-1, 2, (len(packed.valid), 2), generator=generator).float() * scale, packed


def check_slots(router: TokenChoiceRouter, x: Tensor, packed: PackedTokens) -> None:
    dispatcher, routed = router(x, packed)
    assert routed.gates.isfinite().all() and routed.gate.isfinite().all()
    pairs = max(1, min(router.capacity.pairs_per_group or packed.num_pairs, packed.num_pairs))
    group = (packed.pair // pairs).tolist()
    chosen = routed.expert_index.tolist()
    if len(x) == 0:
        return
    slot = oracle.slots(
        chosen,
        score=PRIORITIES[router.priority](routed, packed),
        group=group,
        valid=routed.valid.tolist(),
        capacity=routed.capacity,
    )
    kept = [[s is not None for s in row] for row in slot]
    assert routed.kept.tolist() == kept  # the highest priorities alone
    for row in chosen:
        assert len(set(row)) == len(row)
    check_travel(dispatcher, routed)


def check_travel(dispatcher: Dispatcher, routed: RouterOutput) -> None:
    """A token's row is its number, and expert e adds 1000 (e + 1): what comes back tells who was where."""
    numbered = torch.arange(1.0, len(routed.gate) + 1)[:, None].expand(-1, 3)
    expert = torch.arange(1.0, routed.num_experts + 1) * 1000
    expected = (routed.gate * routed.kept * (numbered[:, :1] + expert[routed.expert_index])).sum(-1)
    for rows, offsets in layouts(dispatcher, numbered).values():
        if offsets is None:
            answer = rows + expert[:, None, None]
        else:
            owner = torch.searchsorted(offsets, torch.arange(len(rows), dtype=torch.int32), right=True)
            answer = rows + expert[owner.clamp_max(routed.num_experts - 1)][:, None]
        found = dispatcher.combine(ExpertTokens(answer, offsets))
        torch.testing.assert_close(found[:, 0], expected, rtol=1e-5, atol=1e-3)


def test_slots_in_random_cases() -> None:
    for number in range(400):
        check_slots(*random_case(number))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_slots_in_ten_thousand_random_cases() -> None:
    for number in range(400, 10_400):
        check_slots(*random_case(number))


def test_every_option_is_a_router_of_its_own() -> None:
    """Each option names a class derived from Router; none is a copy of another."""
    found = {type(factory(option)(8, num_experts=8)) for option in OPTIONS}
    assert len(found) == len(OPTIONS)
    assert all(issubclass(kind, Router) for kind in found)
