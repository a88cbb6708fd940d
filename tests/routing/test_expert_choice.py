"""Expert choice against nested loops, and what its RouterOutput says."""

import pytest
import torch

from limoe.errors import ArgumentError
from limoe.losses.auxiliary.classic import Importance, ZLoss
from limoe.losses.auxiliary.entropy import GlobalEntropy, LocalEntropy
from limoe.models.moe import MoE
from limoe.routing.expert_choice import ExpertChoiceRouter
from limoe.routing.statistics import modality_statistics
from limoe.types import IMAGE, TEXT, ExpertTokens, PackedTokens, RouterOutput
from tests.helpers import oracle
from tests.helpers.builders import decide, packed_groups, packed_pairs


def expert_choice(dim: int, *, num_experts: int, **settings: object) -> ExpertChoiceRouter:
    plain = {"noise_std": 0.0, "capacity_factor": 1.0, "capacity_rounding": "round", "capacity_multiple_of": 1}
    return ExpertChoiceRouter(dim, num_experts=num_experts, **{**plain, **settings})


def takers_by_hand(routed: RouterOutput, *, group: list[int], slots: int) -> list[set[int]]:
    """For each token the experts that take it."""
    gates, valid = routed.gates.tolist(), routed.valid.tolist()
    found: list[set[int]] = [set() for _ in gates]
    for expert in range(routed.num_experts):
        for g in set(group):
            candidates = [t for t in range(len(gates)) if group[t] == g and valid[t]]
            candidates.sort(key=lambda t: (-oracle.as_float32(gates[t][expert]), t))
            for token in candidates[:slots]:
                found[token].add(expert)
    return found


@pytest.mark.parametrize("case", range(150))
def test_decisions_and_outputs_equal_nested_loops(case: int) -> None:
    """Small whole numbers, so that tokens tie; incomplete last groups; padding; any number of slots."""
    generator = torch.Generator().manual_seed(case)
    pairs, image, text, experts = (int(torch.randint(1, n, (), generator=generator)) for n in (6, 4, 4, 5))
    per_group, factor = [None, 1, 2, 3][case % 4], [0.3, 1.0, 2.0, None, 100.0][case % 5]
    mask = torch.rand(pairs, text, generator=generator) < 0.6
    packed = packed_pairs(pairs=pairs, image_tokens=image, text_tokens=text, text_mask=mask)
    router = expert_choice(2, num_experts=experts, capacity_factor=factor, pairs_per_group=per_group)
    layer = MoE(2, hidden_dim=3, num_experts=experts, router=lambda *_, **__: router, expert_init="independent")
    router.weight.data = torch.randint(-1, 2, (experts, 2), generator=generator).float()
    x = torch.randint(-1, 2, (len(packed.valid), 2), generator=generator).float()
    y, routed = layer(x, packed)

    size = min(per_group or pairs, pairs)
    tokens = size * (image + text)
    slots = tokens if factor is None else min(max(1, round(tokens * factor / experts)), tokens)
    assert routed.capacity == (None if factor is None else slots)
    takers = takers_by_hand(routed, group=(packed.pair // size).tolist(), slots=slots)
    for token, own in enumerate(takers):
        gates = routed.gates[token].tolist()
        best = max(own or range(experts), key=lambda e: (gates[e], -e))
        assert routed.kept[token].tolist() == [bool(own)]
        assert routed.expert_index[token].tolist() == [best]
        assert routed.gate[token].tolist() == [gates[best]]
        parameters = [p.data for p in layer.experts.parameters()]
        rows = [gates[e] * oracle.mlp(x[token], *(p[e] for p in parameters)) for e in own]
        torch.testing.assert_close(y[token], sum(rows, torch.zeros(2)), rtol=1e-5, atol=1e-6)


def test_every_expert_is_full_and_tokens_may_be_left_out() -> None:
    """Twelve tokens, 4 experts, factor 1: 3 slots each; all experts like the same three tokens best."""
    router = expert_choice(1, num_experts=4)
    router.weight.data = torch.zeros(4, 1)  # all gates 1/4: the first tokens win every tie
    dispatcher, routed = router(torch.randn(12, 1), packed_groups(groups=1, length=12))
    assert routed.kept[:, 0].tolist() == [True] * 3 + [False] * 9
    assert dispatcher.token.tolist() == [[0, 1, 2]] * 4
    found = modality_statistics(routed, IMAGE)
    assert found.success_rate == pytest.approx(3 / 12)


def test_without_limit_every_expert_takes_every_token() -> None:
    """Then the output is the gate-weighted sum of all experts, whatever else is in the batch."""
    router = expert_choice(3, num_experts=4, capacity_factor=None, eval_capacity_factor=None)
    dispatcher, routed = router(torch.randn(10, 3), packed_groups(groups=2, length=5))
    assert routed.kept.all() and routed.capacity is None
    ones = ExpertTokens(torch.ones(4, 10, 1))
    torch.testing.assert_close(dispatcher.combine(ones), torch.ones(10, 1))
    assert router.train(False).depends_on_batch is False
    assert expert_choice(3, num_experts=4, eval_capacity_factor=1.0).depends_on_batch


def test_noise_selects_and_weighs_in_training_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.tensor([[4.0, 0.0], [0.0, 0.0]])
    monkeypatch.setattr(torch, "randn_like", lambda like: draw)
    router = expert_choice(1, num_experts=2, noise_std=1.0, eval_capacity_factor=1.0)
    router.weight.data = torch.tensor([[0.0], [0.0]])
    packed: PackedTokens = packed_groups(groups=1, length=2)
    dispatcher, routed = router(torch.ones(2, 1), packed)  # sigma 1/2: token 0 has logits (2, 0)
    assert routed.noisy_logits.tolist() == [[2.0, 0.0], [0.0, 0.0]] and not routed.logits.any()
    assert dispatcher.token.tolist() == [[0], [1]]
    dispatcher, _ = router.eval()(torch.ones(2, 1), packed)
    assert dispatcher.token.tolist() == [[0], [0]]


def test_losses_have_gradients() -> None:
    router = expert_choice(3, num_experts=4, noise_std=1.0)
    routed = decide(router, torch.randn(10, 3), packed_pairs(pairs=2, image_tokens=3, text_tokens=2))
    for term in (Importance(), ZLoss(), LocalEntropy(modality="text"), GlobalEntropy(modality="image")):
        (gradient,) = torch.autograd.grad(term(routed), router.weight, retain_graph=True)
        assert gradient.isfinite().all() and gradient.any()
    assert modality_statistics(routed, TEXT).load.sum() == pytest.approx(1)


def test_bad_noise() -> None:
    with pytest.raises(ArgumentError, match=r"noise_std must be >= 0, got -1"):
        expert_choice(1, num_experts=2, noise_std=-1)
