"""The order in which tokens get slots."""

import pytest
import torch

from limoe.errors import ConfigError
from limoe.routing import priority
from limoe.routing.priority import get_priority
from tests.helpers.builders import packed_pairs

PACKED = packed_pairs(pairs=2, image_tokens=2, text_tokens=1)  # image, image, image, image, text, text
GATE = torch.tensor([0.5, 0.25, 0.75, 0.25, 1.0, 0.3])


def test_bpr_puts_the_largest_gate_first_whatever_its_modality() -> None:
    assert torch.equal(priority.bpr(GATE, PACKED), GATE)


def test_first_come_treats_all_alike() -> None:
    assert priority.first_come(GATE, PACKED).unique().tolist() == [0.0]


def test_modality_orders() -> None:
    image, text = priority.image_first(GATE, PACKED), priority.text_first(GATE, PACKED)
    assert image[:4].min() > image[4:].max() and image[:4].unique().numel() == image[4:].unique().numel() == 1
    assert text[4:].min() > text[:4].max() and text[:4].unique().numel() == text[4:].unique().numel() == 1


def test_random_draws_anew_at_each_call_and_obeys_the_seed() -> None:
    torch.manual_seed(1)
    first, second = priority.random(GATE, PACKED), priority.random(GATE, PACKED)
    torch.manual_seed(1)
    assert torch.equal(priority.random(GATE, PACKED), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("name", ["bpr", "first_come", "random", "image_first", "text_first"])
def test_every_name_gives_one_score_per_token_and_no_gradient_is_needed(name: str) -> None:
    score = get_priority(name)(GATE, PACKED)
    assert score.shape == GATE.shape and score.isfinite().all()


def test_names_and_dotted_paths() -> None:
    assert get_priority("bpr") is priority.bpr
    assert get_priority("limoe.routing.priority.text_first") is priority.text_first


@pytest.mark.parametrize(
    "name", ["", "brp", "no.such.module.bpr", "limoe.routing.priority.unknown", "os.sep", ".a.b", "a..b"]
)
def test_an_unknown_name_is_a_config_error_that_quotes_it(name: str) -> None:
    with pytest.raises(ConfigError, match="priority must be one of bpr, first_come") as error:
        get_priority(name)
    assert repr(name) in str(error.value)
