"""Parameters of a search: what they may be, and how their values are written."""

from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from limoe.errors import DataError
from limoe.search.space import Choices, Parameter, Range, parse_parameter, word


def require(condition: bool, message: str) -> None:
    if not condition:
        raise DataError(message)


def parsed(entry: Any, key: Any = "optimizer.lr") -> Parameter:
    return parse_parameter(key, entry, require=require)


def test_ranges() -> None:
    lr = parsed({"low": 1e-4, "high": 1e-2, "log": True})
    assert lr == Range(1e-4, 1e-2, log=True)
    assert (lr.word(0.00123456789), lr.probes, str(lr)) == ("0.00123457", ("0.0001", "0.01"), "0.0001 to 0.01 (log)")
    weight = parsed({"low": 0.0, "high": 0.3, "step": 0.1})
    assert isinstance(weight, Range) and not weight.is_whole
    assert weight.word(0.1 + 0.2) == "0.3" and str(weight) == "0.0 to 0.3 (step 0.1)"  # the sum is 0.30000000000000004


def test_whole_ends_make_whole_numbers() -> None:
    experts = parsed({"low": 2, "high": 8, "step": 2})
    assert isinstance(experts, Range) and experts.is_whole
    assert (experts.word(4.0), experts.probes) == ("4", ("2", "8"))
    mixed = parsed({"low": 0, "high": 1.0})
    assert isinstance(mixed, Range) and not mixed.is_whole


def test_choices() -> None:
    assert parsed({"choices": ["bpr", 1.25, None, True, ["limoe", "z"]]}) == Choices(
        ("bpr", "1.25", "null", "true", "[limoe,z]")
    )


@pytest.mark.parametrize(
    "value",
    [
        "bpr",
        "a/b",
        "8",
        "true",
        "1e-4",
        "it's",
        "back\\",
        "a b",
        "",
        "nan",
        3,
        2.5,
        1e-05,
        None,
        False,
        [1, "x,y"],
        {"a": 2},
    ],
)
def test_hydra_reads_a_word_as_the_value(value: Any) -> None:
    (override,) = OverridesParser.create().parse_overrides([f"key={word(value)}"])
    assert override.value() == value
    assert type(override.value()) is type(value) or isinstance(value, str)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (3, "space.optimizer.lr must be {low, high} or {choices}, got 3"),
        ({"low": 1}, "must have low, high and perhaps log or step, got low"),
        ({"low": 1, "high": 2, "hgih": 3}, "must have low, high and perhaps log or step"),
        ({"low": "a", "high": 2}, "space.optimizer.lr.low must be a number, got 'a'"),
        ({"low": 1, "high": True}, "space.optimizer.lr.high must be a number, got True"),
        ({"low": 2, "high": 2}, "space.optimizer.lr.low must be < high=2, got 2"),
        ({"low": 0, "high": 2, "log": True}, "low must be > 0 where log is true, got 0"),
        ({"low": 1, "high": 2, "log": "yes"}, "log must be true or false, got 'yes'"),
        ({"low": 1, "high": 9, "log": True, "step": 2}, "step and log exclude each other"),
        ({"low": 1, "high": 4, "step": 2}, "step must be > 0 and divide high - low, got 2"),
        ({"low": 1, "high": 4, "step": -1}, "step must be > 0 and divide high - low, got -1"),
        ({"choices": ["a"]}, "choices must list two or more, got ['a']"),
        ({"choices": [1, 1]}, "choices must differ, got [1, 1]"),
        ({"choices": [1, 2], "log": True}, "choices come alone, got choices, log"),
    ],
)
def test_errors(entry: Any, message: str) -> None:
    with pytest.raises(DataError) as caught:
        parsed(entry)
    assert message in str(caught.value)


@pytest.mark.parametrize("key", ["+optimizer.lr", "a=b", "", 3, "seed", "hydra.run.dir"])
def test_keys_that_are_refused(key: Any) -> None:
    with pytest.raises(DataError, match="space: "):
        parsed({"low": 0, "high": 1}, key=key)
