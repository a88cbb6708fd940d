"""Drops that follow the order of the pairs tell images and texts their place; other orders do not."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from limoe.callbacks.leak_probe import leak_cure, other_places, position_leak, unrelated_loss
from limoe.models.dual_encoder import unit_length
from limoe.routing.expert_choice import ExpertChoiceRouter
from limoe.routing.fixed import RandomRouter
from limoe.routing.priority import bpr, first_come, image_first, random, text_first
from limoe.routing.soft import SoftRouter
from limoe.routing.token_choice import TopKRouter
from limoe.types import IMAGE, ModelOutput, PackedTokens
from tests.helpers.builders import packed_pairs, tiny_model

BY_CONTENT = {"bpr": bpr, "random": random}
BY_POSITION = {"first_come": first_come, "image_first": image_first, "text_first": text_first}


class OneToken(nn.Module):
    """Images and texts of one token each. All images choose expert 0, all texts expert 1, with gates that differ.

    Features are a linear map, one per modality, of what the layer returns: the token if it has a slot, else 0. With 8
    pairs each expert has 16 * 0.5 / 2 = 4 slots, for 4 of 8 images and 4 of 8 texts.
    """

    def __init__(self, priority: Any) -> None:
        super().__init__()
        self.router = TopKRouter(2, num_experts=2, priority=priority, capacity_factor=0.5, capacity_multiple_of=1)
        self.router.weight.data = 5 * torch.eye(2)  # logits of 5 to 10 beside noise of 0.5
        self.heads = nn.Parameter(0.3 * torch.randn(2, 2, 4))

    def forward(self, size: int = 8) -> ModelOutput:
        # [2 * size, 2] images (value, 0), texts (0, value), values between 1 and 2
        value = 1 + torch.rand(2 * size)
        packed = packed_pairs(pairs=size, image_tokens=1, text_tokens=1)
        is_image = packed.modality == IMAGE
        x = torch.stack([value * is_image, value * ~is_image], dim=1)
        _, routing = self.router(x, packed)
        assert routing.expert_index[:, 0].tolist() == [0] * size + [1] * size and routing.kept.sum() == size

        # [2 * size, 2] (value, 1) of kept tokens, (0, 1) of dropped ones
        seen = torch.stack([value * routing.kept[:, 0], torch.ones(2 * size)], dim=1)
        image, text = (unit_length(part @ head) for part, head in zip(seen.chunk(2), self.heads, strict=True))
        return ModelOutput(image, text, torch.tensor(5.0), {0: routing})


def excess_after_training(priority: Any, *, steps: int = 60) -> float:
    """ln 7 minus the loss of unrelated pairs of 8, mean over 50 batches, after a training on unrelated pairs."""
    torch.manual_seed(0)
    model = OneToken(priority)
    optimizer = torch.optim.Adam([model.heads], lr=0.05)
    order = other_places(8, seed=0)
    for _ in range(steps):
        loss = unrelated_loss(model(), order)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        losses = torch.stack([unrelated_loss(model(), order) for _ in range(50)])
    return (torch.tensor(7.0).log() - losses.mean()).item()


@pytest.mark.parametrize("name", BY_POSITION)
def test_unrelated_pairs_are_learned_by_their_place(name: str) -> None:
    """Pairs 0 to 3 keep both tokens, 4 to 7 neither: knowing the half leaves 3 or 4 of 7 candidates, ln(7/4) = 0.56."""
    assert excess_after_training(BY_POSITION[name]) > 0.4


@pytest.mark.parametrize("name", BY_CONTENT)
def test_unrelated_pairs_cannot_be_learned_otherwise(name: str) -> None:
    assert excess_after_training(BY_CONTENT[name]) < 0.05


def drops(kind: type = TopKRouter, **settings: Any) -> bool:
    return kind(3, num_experts=4, **{"priority": first_come, **settings}).drops_by_position()


@pytest.mark.parametrize("name", [*BY_CONTENT, *BY_POSITION])
def test_which_orders_follow_the_position(name: str) -> None:
    priority = {**BY_CONTENT, **BY_POSITION}[name]
    assert drops(priority=priority) == (name in BY_POSITION)
    assert drops(priority=partial(priority)) == (name in BY_POSITION)
    # all gates of a fixed router are 1, so only chance differs from the order of the tokens
    assert drops(RandomRouter, priority=priority) == (name != "random")
    router = TopKRouter(3, num_experts=4, priority=priority)
    generator = torch.get_rng_state()
    router.drops_by_position()
    assert torch.equal(torch.get_rng_state(), generator)


def later_first(top_gate: Tensor, tokens: PackedTokens) -> Tensor:
    return tokens.pair.float()


def confident_text_first(top_gate: Tensor, tokens: PackedTokens) -> Tensor:
    return top_gate + tokens.modality


def test_a_priority_of_ones_own_is_judged_by_what_it_does() -> None:
    assert drops(priority=later_first) and not drops(priority=confident_text_first)


def test_slots_for_all_tokens_drop_none() -> None:
    """4 experts: a factor of 4, or of 2 at K = 2, gives every expert a slot for every token."""
    assert not drops(capacity_factor=None) and not drops(capacity_factor=4.0)
    assert not drops(capacity_factor=2.0, k=2) and drops(capacity_factor=1.9, k=2) and drops(capacity_factor=3.9)


def test_routers_without_priority() -> None:
    for router in (ExpertChoiceRouter(3, num_experts=4), SoftRouter(3, num_experts=4, slots_per_expert=1)):
        assert not router.drops_by_position()


def test_one_line_says_what_leaks_and_what_to_do() -> None:
    line = position_leak(tiny_model(router={"priority": first_come}))
    assert line is not None and "\n" not in line
    assert "use priority=bpr or priority=random or routing.capacity_factor=null" in line
    assert position_leak(tiny_model()) is None and position_leak(tiny_model(moe_layers=())) is None


def test_a_fixed_router_is_not_told_to_order_by_gates() -> None:
    model = tiny_model(kind=RandomRouter)  # type: ignore[arg-type]
    assert leak_cure(model) == "priority=random or routing.capacity_factor=null"


def test_where_no_order_leaks_groups_are_too_small() -> None:
    model = nn.ModuleList([ExpertChoiceRouter(3, num_experts=4)])
    assert leak_cure(model) == "a larger routing.pairs_per_group or routing.capacity_factor=null"
