"""One line, whoever raises it."""

import pickle

import pytest
from torch.utils.data import DataLoader, Dataset

from limoe.config.errors import explain
from limoe.data.bad_samples import BadContent
from limoe.errors import ArgumentError, ConfigError, DataError, LimoeError, require, require_argument


class Broken(Dataset):
    def __init__(self, kind: type[LimoeError] = DataError) -> None:
        self.kind = kind

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        try:
            raise OSError("the cause")
        except OSError as error:
            raise self.kind("shard.tar: image of 'a' is broken; replace it") from error


@pytest.mark.parametrize("kind", [DataError, BadContent])  # of limoe.errors, and of another module
@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_a_loader_worker_keeps_its_one_line(workers: int, kind: type[LimoeError]) -> None:
    with pytest.raises(kind) as error:
        list(DataLoader(Broken(kind), num_workers=workers))
    assert str(error.value) == "shard.tar: image of 'a' is broken; replace it"


def test_details_stand_below_the_line_and_not_in_it() -> None:
    error = DataError("two\nare bad", details="place  key\na.tar  0001")
    assert str(error) == "two\nare bad"
    assert explain(error) == "two are bad\nplace  key\na.tar  0001"
    assert explain(DataError("one")) == "one"


def test_require_names_key_rule_and_value() -> None:
    require(True, "routing.k", ">= 1", 1)
    with pytest.raises(ConfigError) as error:
        require(False, "routing.k", ">= 1", 0)
    assert str(error.value) == "routing.k must be >= 1, got 0" and isinstance(error.value, LimoeError)


def test_require_argument_names_argument_rule_and_value() -> None:
    require_argument(True, "k", ">= 1", 1)
    with pytest.raises(ValueError, match=r"^k must be >= 1, got 0$") as error:
        require_argument(False, "k", ">= 1", 0)
    assert isinstance(error.value, ArgumentError) and error.value.argument == "k"
    copy = pickle.loads(pickle.dumps(error.value))  # errors of other processes travel as bytes
    assert (str(copy), copy.argument) == ("k must be >= 1, got 0", "k")
