"""The line about a leak at the start of a training."""

import pytest

from limoe.build import build_module
from limoe.cli.commands.train import warn_of_leak
from tests.helpers.configs import composed

TINY = ["model.vocab_size=16", "model.text_length=4", "priority=first_come"]
TOWERS = ["model=two_tower_moe_tiny", "aux_loss=none"]


@pytest.mark.parametrize(
    ("words", "warns"),
    [
        ([], True),
        (["priority=bpr"], False),
        (["routing.capacity_factor=null"], False),
        (["model.moe_layers=[]", "aux_loss=none"], False),
        (["routing=hash", "priority=bpr", "aux_loss=none"], True),
        (TOWERS, True),
        ([*TOWERS, "model.image.moe_layers=[]"], False),
    ],
)
def test_a_run_whose_drops_tell_the_place_of_a_pair_is_warned(
    words: list[str], warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    warn_of_leak(build_module(composed(*TINY, *words)))
    assert [record.levelname for record in caplog.records] == ["WARNING"] * warns
    assert ("use priority=" in caplog.text) == warns
