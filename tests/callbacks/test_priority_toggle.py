"""Priorities that change at a step or an epoch, in trainings of a few steps."""

from pathlib import Path
from typing import Any

import pytest

from limoe.callbacks.priority_toggle import PriorityToggle
from tests.helpers.builders import Batches, quiet_trainer, tiny_batch
from tests.helpers.training import Watch, fit, module


def test_priority_switches_at_its_step_and_for_evaluation_apart(tmp_path: Path) -> None:
    watch = Watch()
    toggle = PriorityToggle(train={2: "first_come", 4: "random"}, eval={3: "text_first"})
    fit(module(), tmp_path, steps=6, callbacks=[toggle, watch], val_check_interval=1, num_sanity_val_steps=1)
    assert watch.train == ["bpr", "bpr", "first_come", "first_come", "random", "random"]
    # steps done so far; until step 3 evaluation does as training did last
    assert watch.validation == [
        (0, "bpr"),
        (1, "bpr"),
        (2, "first_come"),
        (3, "text_first"),
        (4, "text_first"),
        (5, "text_first"),
        (6, "text_first"),
    ]


def test_priority_switches_by_epoch(tmp_path: Path) -> None:
    watch = Watch()
    toggle = PriorityToggle(train={1: "image_first"}, unit="epoch")
    trainer = quiet_trainer(tmp_path, max_epochs=2, callbacks=[toggle, watch])
    trainer.fit(module(), train_dataloaders=Batches([tiny_batch()] * 2), val_dataloaders=Batches([tiny_batch()]))
    assert watch.train == ["bpr", "bpr", "image_first", "image_first"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"unit": "batch"}, r"unit must be 'step' or 'epoch', got 'batch'"),
        ({"train": {-1: "bpr"}}, r"train must be a map from whole numbers >= 0 to priorities, got -1"),
        ({"eval": {0: "brp"}}, r"priority must be one of bpr, .* got 'brp'"),
    ],
)
def test_bad_toggles(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PriorityToggle(**settings)
