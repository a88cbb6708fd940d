"""One line, whoever raises it."""

import pytest
from torch.utils.data import DataLoader, Dataset

from limoe.errors import ConfigError, DataError, LimoeError, require


class Broken(Dataset):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        try:
            raise OSError("the cause")
        except OSError as error:
            raise DataError("shard.tar: picture of 'a' is broken; replace it") from error


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_a_loader_worker_keeps_its_one_line(workers: int) -> None:
    with pytest.raises(DataError) as error:
        list(DataLoader(Broken(), num_workers=workers))
    assert str(error.value) == "shard.tar: picture of 'a' is broken; replace it"


def test_require_names_key_rule_and_value() -> None:
    require(True, "routing.k", ">= 1", 1)
    with pytest.raises(ConfigError) as error:
        require(False, "routing.k", ">= 1", 0)
    assert str(error.value) == "routing.k must be >= 1, got 0" and isinstance(error.value, LimoeError)
