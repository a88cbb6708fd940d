"""Thousands of random routers: which tokens are kept, in which slot, with which weight. Counted, not sorted."""

import random
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from limoe.routing import priority
from limoe.routing.token_choice import TopKRouter
from limoe.types import IMAGE, TEXT, Dispatcher, ExpertTokens, PackedTokens, RouterOutput, Segment
from tests.helpers.builders import layouts

PRIORITIES = (priority.bpr, priority.first_come, priority.image_first, priority.text_first, priority.random)
LOGITS = {
    "normal": lambda shape: torch.randn(shape),
    "ties": lambda shape: torch.randn(shape).round(),
    "equal": lambda shape: torch.full(shape, 0.3),
    "huge": lambda shape: 1e4 * torch.randn(shape).sign(),
}


@dataclass
class Drawn:
    """One random router with the scores that its priority gave, and the tokens it saw."""

    dispatcher: Dispatcher
    routed: RouterOutput
    score: Tensor
    group: Tensor
    num_groups: int
    kind: str


def draw(rng: random.Random) -> Drawn:
    pairs, lengths = rng.randint(0, 4), (rng.randint(0, 4), rng.randint(0, 3))
    mask = torch.rand(pairs, lengths[1]) < 0.7
    segments = [Segment(IMAGE, pairs, lengths[0]), Segment(TEXT, pairs, lengths[1], mask)]
    packed = PackedTokens.of(segments, device=torch.device("cpu"))
    experts = rng.randint(1, 5)
    per_group = rng.choice([None, 1, 2])
    scores = []

    def remember(top_gate: Tensor, packed: PackedTokens) -> Tensor:
        scores.append(rule(top_gate, packed))
        return scores[-1]

    rule, kind = rng.choice(PRIORITIES), rng.choice(list(LOGITS))
    router = TopKRouter(
        experts,
        num_experts=experts,
        k=rng.choice([1, min(2, experts), experts]),
        priority=remember,
        noise_std=rng.choice([0.0, 1.0]),
        renormalize_gates=rng.random() < 0.3,
        capacity_factor=rng.choice([1e-6, 0.5, 1.05, float(experts), None]),
        capacity_multiple_of=rng.choice([1, 1, 4]),
        pairs_per_group=per_group,
        count_pad=rng.random() < 0.2,
    )
    router.weight.data = torch.eye(experts)  # tokens are logits
    x = LOGITS[kind]((len(packed.pair), experts))
    group_size = max(1, min(per_group or pairs, pairs))
    dispatcher, routed = router(x, packed)
    return Drawn(dispatcher, routed, scores[0].detach(), packed.pair // group_size, -(-pairs // group_size), kind)


def before(drawn: Drawn) -> Tensor:
    """[TK, TK]: whether assignment a (row) comes before assignment b at the same expert of the same group."""
    routed, (tokens, k) = drawn.routed, drawn.routed.expert_index.shape
    token = torch.arange(tokens).repeat_interleave(k)
    choice, score = torch.arange(k).repeat(tokens), drawn.score.repeat_interleave(k)
    expert, group = routed.expert_index.flatten(), drawn.group[token]
    same = (expert[:, None] == expert) & (group[:, None] == group) & routed.valid[token][:, None]
    earlier = (choice[:, None] == choice) & (
        (score[:, None] > score) | ((score[:, None] == score) & (token[:, None] < token))
    )
    return same & ((choice[:, None] < choice) | earlier)


def check_slots(drawn: Drawn) -> None:
    """Of all tokens that choose an expert, the first `capacity` by choice, score and position alone are kept."""
    routed = drawn.routed
    rank = before(drawn).sum(0).view_as(routed.expert_index)
    allowed = routed.valid[:, None].expand_as(rank)
    if routed.capacity is not None:
        allowed = allowed & (rank < routed.capacity)
    assert torch.equal(routed.kept, allowed)


def check_travel(drawn: Drawn) -> None:
    """Both layouts: every kept (token, choice) has one row of its own, of its expert, and comes back with its gate."""
    routed = drawn.routed
    tokens, weight = len(routed.valid), (routed.gate * routed.kept).detach()
    dispatcher = drawn.dispatcher
    for layout, buffers in layouts(dispatcher, torch.eye(tokens)).items():
        rows, offsets = buffers
        num_rows = rows.shape[:-1].numel()
        assert dispatcher.num_rows[layout] == num_rows
        torch.testing.assert_close(dispatcher.combine(buffers).detach(), weight.sum(1).diag())
        number = torch.arange(num_rows)
        expert = number // max(rows.shape[1], 1) if offsets is None else (number[:, None] >= offsets).sum(1)
        expected = (weight * (1.0 + routed.expert_index)).sum(1, keepdim=True)
        answer = ExpertTokens((1.0 + expert)[:, None].view(*rows.shape[:-1], 1), offsets)
        found = dispatcher.combine(answer).detach()
        torch.testing.assert_close(found, expected)
        if num_rows == 0:
            continue
        own = ExpertTokens(torch.eye(num_rows).view(*rows.shape[:-1], -1), offsets)
        held = dispatcher.combine(own).detach() != 0  # [T, rows]
        assert held.sum(0).max() <= 1  # no slot is shared
        assert torch.equal(held.sum(1), (weight > 0).sum(1))  # a gate can underflow to 0


def check_finite(drawn: Drawn) -> None:
    routed = drawn.routed
    for name in ("logits", "gates", "gate", "log_probs"):
        assert getattr(routed, name).isfinite().all(), name
    torch.testing.assert_close(routed.gates.sum(1), torch.ones(len(routed.gates)))
    assert (routed.gate[:, :-1] >= routed.gate[:, 1:]).all()  # first choice first


def check(cases: int) -> dict[str, int]:
    """How often what has happened, so that a test can see that the loop looked at what it should."""
    rng, seen = random.Random(0), dict.fromkeys(("no_tokens", "one_expert", "k_is_e", "roomy", "drops", *LOGITS), 0)
    torch.manual_seed(0)
    for _ in range(cases):
        drawn = draw(rng)
        routed = drawn.routed
        check_slots(drawn)
        check_travel(drawn)
        check_finite(drawn)
        seen["no_tokens"] += len(routed.valid) == 0
        seen["one_expert"] += routed.num_experts == 1
        seen["k_is_e"] += routed.num_experts == routed.expert_index.shape[1]
        seen["roomy"] += routed.capacity is not None and routed.capacity * drawn.num_groups >= len(routed.valid)
        seen["drops"] += bool((routed.valid[:, None] & ~routed.kept).any())
        seen[drawn.kind] += 1
    return seen


def test_a_thousand_random_routers() -> None:
    assert min(check(1_000).values()) > 50


@pytest.mark.slow
def test_ten_thousand_random_routers() -> None:
    assert min(check(10_000).values()) > 500
