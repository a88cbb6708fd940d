import logging
from pathlib import Path
from typing import Any

import pytest

from limoe.data.bad_policy import JOINT_CHECK, BadSamplePolicy
from limoe.errors import DataError
from tests.helpers.faulty import FaultyScenes, broken_sample
from tests.helpers.ranks import run_two


def policy(*, on_bad: str = "replace", max_bad_fraction: float = 0.01) -> BadSamplePolicy:
    return BadSamplePolicy(on_bad=on_bad, max_bad_fraction=max_bad_fraction)


def test_a_few_bad_ones_among_the_first_do_not_stop_a_run() -> None:
    # 1 % of 1,000, the least number the share is taken of, are 10.
    watched = policy()
    watched.count([broken_sample(i) for i in range(10)], good=6)
    assert (watched.replaced.total, watched.read) == (10, 16)
    with pytest.raises(DataError):
        watched.count([broken_sample(10)], good=15)


def test_later_the_share_of_all_that_was_read_counts() -> None:
    watched = policy()
    watched.count([broken_sample(i) for i in range(10)], good=1990)
    watched.count([broken_sample(i) for i in range(10)], good=0)  # 20 of 2,010: below 1 %
    with pytest.raises(DataError, match=r"^21 of 2,011 samples read so far are bad \(bad_image 21\), more than"):
        watched.count([broken_sample(20)], good=0)


def test_the_error_has_one_line_and_a_table_of_the_first_twenty() -> None:
    with pytest.raises(DataError) as caught:
        policy(max_bad_fraction=0.02).count([broken_sample(i) for i in range(25)], good=75)
    assert str(caught.value) == (
        "25 of 100 samples read so far are bad (bad_image 25), more than data.max_bad_fraction=0.02; "
        "fix or remove them, or raise the limit"
    )
    heading, *lines = caught.value.details.splitlines()
    assert heading == "The first 20 of them:"
    assert len(lines) == 21
    assert lines[1].split(maxsplit=2) == ["scenes", "s0", "its image is torn"]


def test_of_what_was_indexed_the_whole_is_known() -> None:
    # 2 of 100 samples are 2 %; the minimum of 1,000 is for those who do not know how many will come.
    policy(max_bad_fraction=0.02).check_left_out(FaultyScenes(size=98, left_out=2), name="training")
    with pytest.raises(DataError, match=r"^3 of 100 training samples are bad \(no_caption 3\)") as caught:
        policy(max_bad_fraction=0.02).check_left_out(FaultyScenes(size=97, left_out=3), name="training")
    assert "lost2" in caught.value.details


def test_raise_takes_none() -> None:
    with pytest.raises(DataError, match=r"^validation data has bad samples: 1 \(no_caption 1\), first scenes"):
        policy(on_bad="raise", max_bad_fraction=1).check_left_out(FaultyScenes(size=9, left_out=1), name="validation")
    assert policy(on_bad="raise").stand_ins == 0


def test_a_source_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    told, source = policy(max_bad_fraction=1), FaultyScenes(size=9, left_out=2)
    with caplog.at_level(logging.WARNING):
        for pairs in (source, source, FaultyScenes(size=9)):
            told.check_left_out(pairs, name="training")
    (line,) = caplog.messages
    assert line == "training data: bad samples left out: 2 (no_caption 2), first scenes: 'lost0': its caption is empty"


def test_the_end_says_in_one_line_what_was_replaced(caplog: pytest.LogCaptureFixture) -> None:
    watched = policy()
    with caplog.at_level(logging.WARNING):
        watched.finish()
        watched.count([broken_sample(1)._replace(key="a\nb")], good=49)
        watched.finish()
    (line,) = caplog.messages
    assert line == "bad samples replaced, of 50 read: 1 (bad_image 1), first scenes: 'a\\nb': its image is torn"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"on_bad": "skip"}, "on_bad must be replace or raise, got 'skip'"),
        ({"max_bad_fraction": 1.5}, "max_bad_fraction must be between 0 and 1, got 1.5"),
        ({"max_bad_fraction": float("nan")}, "max_bad_fraction must be between 0 and 1, got nan"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, float | str], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        policy(**settings)
    assert str(caught.value) == message


def _only_rank_one_meets_bad_samples(rank: int) -> Any:
    watched = policy(max_bad_fraction=0.005)
    stopped_at, message, keys = None, "", []
    try:
        for batch in range(3 * JOINT_CHECK):
            stopped_at = batch
            watched.count([broken_sample(batch)] if rank == 1 else [], good=3 + rank)
    except DataError as error:
        message = str(error)
        keys = [line.split()[1] for line in error.details.splitlines()[2:4]]
    watched.finish()
    return {"batch": stopped_at, "message": message, "keys": keys, "bad": watched.replaced.total, "read": watched.read}


@pytest.mark.slow
def test_all_ranks_stop_together_with_one_table(tmp_path: Path) -> None:
    """Rank 0 meets no bad sample, stops at the first joint check with the table of rank 1, and ends with its counts."""
    found = run_two(_only_rank_one_meets_bad_samples, tmp_path)
    # 50 batches: 3 per batch on rank 0, 4 and a bad one on rank 1: 50 of 400.
    assert found["batch"] == JOINT_CHECK - 1
    assert found["message"].startswith("50 of 400 samples read so far are bad (bad_image 50)")
    assert found["keys"] == ["s0", "s1"]
    assert (found["bad"], found["read"]) == (50, 400)
