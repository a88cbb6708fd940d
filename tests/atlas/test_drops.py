"""Which tokens would be dropped in training: worked out by hand for twelve patches and eight words."""

import pytest
import torch

from limoe.atlas.collect import load
from limoe.atlas.drops import capacity_line, drops, training_capacity
from limoe.errors import ConfigError
from limoe.routing.priority import bpr, first_come
from tests.helpers import planted

# 3 pairs of 4 patches and 4 places for words share slots: 24 tokens, 4 experts, factor 1/3: 24 / 3 / 4 = 2 slots each.
TIGHT = {"capacity_factor": 1 / 3, "capacity_multiple_of": 1, "pairs_per_group": None}


def lost(model: torch.nn.Module, **how: object) -> dict:
    batches = load(planted.data(), planted.Scenes(), batch_size=3)
    return drops(model, batches, **{"capacity_factor": "run", "priority": "run", **how})[0]


def test_drops_by_position() -> None:
    """Words have the larger gates and come first. Expert 0: `red`, then patch 0 of pair 0; 1: `dog`, patch 2 of pair 0;
    2: the ends of texts 0 and 1; 3: the cats of texts 0 and 1. All others are dropped."""
    found = lost(planted.model(**TIGHT))
    assert found["slots"] == 2
    assert found["image"]["dropped"] == pytest.approx(10 / 12)
    assert found["image"]["by_position"] == [[pytest.approx(2 / 3), 1.0], [pytest.approx(2 / 3), 1.0]]
    assert found["image"]["tokens"] == [3, 3, 3, 3]
    assert found["text"]["dropped"] == pytest.approx(2 / 8)  # the third cat and the third end
    assert found["text"]["by_position"] == [pytest.approx(1 / 3), 0.0, 0.5, None]
    assert found["text"]["tokens"] == [3, 3, 2, 0]


def test_another_priority_can_be_asked_for() -> None:
    """First come: both slots of experts 0 to 2 go to patches, those of 3 to two cats."""
    found = lost(planted.model(**TIGHT), priority="first_come")
    assert found["image"]["dropped"] == pytest.approx(6 / 12)
    assert found["text"]["dropped"] == pytest.approx(6 / 8)
    assert lost(planted.model(**{**TIGHT, "priority": first_come})) == found
    with pytest.raises(ConfigError, match="priority must be one of bpr"):
        lost(planted.model(**TIGHT), priority="unknown")


def test_another_factor_can_be_asked_for() -> None:
    found = lost(planted.model(**TIGHT), capacity_factor=4.0)
    assert (found["slots"], found["image"]["dropped"], found["text"]["dropped"]) == (24, 0.0, 0.0)


def test_capacity_is_that_of_training_whatever_evaluation_has() -> None:
    free, limited = (planted.model(**TIGHT, eval_capacity_factor=factor) for factor in (None, 2.0))
    assert lost(free) == lost(limited)


def test_routers_are_left_as_they_were() -> None:
    model = planted.model(**TIGHT)
    router = model.tower.blocks[0].mlp.router
    with pytest.raises(RuntimeError, match="inside"), training_capacity(model, capacity_factor=0.5, priority="random"):
        assert router.capacity.eval_capacity_factor == 0.5 and router.eval_priority is not None
        raise RuntimeError("inside")
    capacity = router.capacity
    assert (capacity.capacity_factor, capacity.eval_capacity_factor, router.eval_priority) == (1 / 3, None, None)
    assert router.priority is bpr


def test_the_page_says_whose_capacity_it_is() -> None:
    model = planted.model(**{**TIGHT, "capacity_factor": 1.05, "pairs_per_group": 8})
    own = capacity_line(model, capacity_factor="run", priority="run")
    assert own == "the capacity of training (factor 1.05) shared by 8 pairs, and its priority (bpr)"
    other = capacity_line(model, capacity_factor=0.5, priority="random")
    assert other == "capacity factor 0.5 shared by 8 pairs, and priority random"
