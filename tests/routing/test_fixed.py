"""Hash, random and round robin: routers without parameters."""

from typing import Any

import pytest
import torch

from limoe.errors import ArgumentError
from limoe.losses.auxiliary.entropy import LocalEntropy
from limoe.routing.fixed import HashRouter, RandomRouter, RoundRobinRouter
from limoe.routing.priority import bpr, text_first
from limoe.types import PackedTokens, RouterOutput
from tests.helpers.builders import decide, packed_pairs, router_output

MASK = torch.tensor([[True] * 8 + [False] * 8, [True] * 16])
PACKED = packed_pairs(pairs=2, image_tokens=32, text_tokens=16, text_mask=MASK)


def route(kind: type, packed: PackedTokens = PACKED, **settings: Any) -> RouterOutput:
    router = kind(3, num_experts=8, **{"priority": bpr, **settings})
    assert not list(router.parameters()) and not router.state_dict()
    return decide(router, torch.randn(len(packed.valid), 3), packed)


@pytest.mark.parametrize("kind", [HashRouter, RandomRouter, RoundRobinRouter])
def test_one_expert_with_gate_one(kind: type) -> None:
    routed = route(kind)
    assert routed.gate.unique().tolist() == [1.0]
    assert torch.equal(routed.gates, torch.nn.functional.one_hot(routed.expert_index[:, 0], 8).float())
    torch.testing.assert_close(routed.logits.softmax(-1), routed.gates)
    assert LocalEntropy(modality="image")(routed) == 0


def test_hash_depends_on_modality_and_position_alone() -> None:
    index = route(HashRouter).expert_index[:, 0]
    image, text = index[:64].view(2, 32), index[64:].view(2, 16)
    assert torch.equal(image[0], image[1]) and torch.equal(text[0], text[1])
    assert torch.equal(index, route(HashRouter).expert_index[:, 0])
    alone = route(HashRouter, packed_pairs(pairs=1, image_tokens=0, text_tokens=16)).expert_index[:, 0]
    assert torch.equal(alone, text[0])
    assert not torch.equal(image[0, :16] % 8, text[0])
    assert not torch.equal(image, route(HashRouter, hash_seed=1).expert_index[:64, 0].view(2, 32))


@pytest.mark.parametrize("hash_seed", range(5))
def test_hash_is_balanced_and_not_regular(hash_seed: int) -> None:
    index = route(HashRouter, hash_seed=hash_seed).expert_index[:, 0]
    assert torch.bincount(index[:32]).tolist() == [4] * 8
    assert torch.bincount(index[64:80]).tolist() == [2] * 8
    assert not torch.equal(index[:8], index[8:16])


def test_random_is_fresh_and_uniform() -> None:
    big = packed_pairs(pairs=100, image_tokens=64, text_tokens=16)
    first, second = (route(RandomRouter, big).expert_index for _ in range(2))
    assert not torch.equal(first, second)
    share = torch.bincount(first[:, 0], minlength=8) / 8000
    assert (share - 1 / 8).abs().max() < 5 * (0.125 * 0.875 / 8000) ** 0.5  # five standard deviations


def test_round_robin_takes_turns() -> None:
    routed = route(RoundRobinRouter)
    assert routed.expert_index[:, 0].tolist() == [t % 8 for t in range(96)]
    assert routed.capacity == 16 and routed.kept[routed.valid].all()  # ceil(96 * 1.05 / 8) = 13, then 16


def test_priority_still_decides_which_tokens_are_kept() -> None:
    """96 tokens, 8 experts, 3 slots each; expert e meets tokens e, e + 8, ...; the last four of them are text."""
    settings = {"capacity_factor": 0.25, "capacity_multiple_of": 1}
    by_order, by_text = (route(RoundRobinRouter, priority=p, **settings) for p in (bpr, text_first))
    assert by_order.kept[:24].all() and not by_order.kept[24:].any()
    assert by_text.kept[64:].sum() == 24 and not by_text.kept[:64].any()


def test_the_builder_of_router_outputs_agrees() -> None:
    routed = route(HashRouter, capacity_factor=None)
    baseline = router_output(routed.logits, modality=PACKED.modality, valid=PACKED.valid)
    assert torch.equal(routed.expert_index, baseline.expert_index) and torch.equal(routed.kept, baseline.kept)


def test_bad_seed() -> None:
    with pytest.raises(ArgumentError, match=r"hash_seed must be >= 0, got -1"):
        HashRouter(3, num_experts=2, priority=bpr, hash_seed=-1)


@pytest.mark.parametrize("kind", [HashRouter, RandomRouter, RoundRobinRouter])
def test_a_token_has_one_expert(kind: type) -> None:
    with pytest.raises(ArgumentError, match="k must be 1 for a router that gives each token one expert, got 2"):
        kind(3, num_experts=8, priority=bpr, k=2)
