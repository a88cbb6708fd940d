"""How far the batch moves the features of its samples."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from limoe.data.tasks.kinds import RetrievalTask, ZeroShotTask
from limoe.evaluation.batch_dependence import batch_gap, depends_on_batch
from limoe.models.limoe import LIMoE
from limoe.types import Pair
from tests.helpers.builders import tiny_model


class Images:
    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> Pair:
        return Pair(Image.new("RGB", (8, 8)), [str(index)], {}, str(index))

    def captions(self) -> Iterator[str]:
        return map(str, range(10))


class Data:
    """Random images in batches of 4; a text is a row of numbers made from its letters."""

    class Tokens:
        def encode(self, texts: list[str]) -> tuple[Tensor, Tensor]:
            ids = torch.tensor([[ord(letter) % 12 + 1 for letter in f"{text:6.6}"] for text in texts])
            return ids, torch.ones_like(ids, dtype=torch.bool)

    tokenizer = Tokens()

    def image_loader(self, images: Images) -> Any:
        pixels = torch.rand(len(images), 3, 8, 8, generator=torch.Generator().manual_seed(3))
        return iter(pixels.split(4))


RETRIEVAL = RetrievalTask(Images(), [f"{i}x{i}" for i in range(7)], [(i, i) for i in range(7)])
ZERO_SHOT = ZeroShotTask(Images(), [0] * 10, ["ab", "cd", "ef"], ["{}!", "{}?"])


def model(**router: object) -> LIMoE:
    return tiny_model(router={"capacity_multiple_of": 1, **router}, num_experts=2).train()


@pytest.mark.parametrize("task", [RETRIEVAL, ZERO_SHOT], ids=["retrieval", "zero_shot"])
def test_no_limit_no_gap(task: RetrievalTask | ZeroShotTask) -> None:
    lit = model()
    assert not depends_on_batch(lit)
    gap = batch_gap(lit, Data(), task)
    assert set(gap) == {"image_mean", "image_max", "text_mean", "text_max"}
    assert max(map(abs, gap.values())) < 1e-6
    assert lit.training  # left as it was


def test_limited_slots_make_a_gap() -> None:
    lit = model(eval_capacity_factor=0.5)
    assert depends_on_batch(lit)
    gap = batch_gap(lit, Data(), RETRIEVAL)
    assert 1e-6 < gap["image_mean"] <= gap["image_max"] < 2 and 1e-6 < gap["text_mean"] <= gap["text_max"] < 2


def test_the_distances_are_those_of_single_passes() -> None:
    lit, data = model(eval_capacity_factor=0.5), Data()
    gap = batch_gap(lit, data, ZERO_SHOT, samples=3)
    ids, mask = data.tokenizer.encode(["ab!", "cd!", "ef!"])
    with torch.no_grad():
        together = lit.eval().encode_text(ids, mask)
        alone = torch.cat([lit.encode_text(ids[[i]], mask[[i]]) for i in range(3)])
    distance = 1 - (together * alone).sum(-1)  # of unit length
    assert gap["text_max"] == pytest.approx(distance.max().item(), abs=1e-6)
    assert gap["text_mean"] == pytest.approx(distance.mean().item(), abs=1e-6)
    assert batch_gap(lit, data, ZERO_SHOT, samples=1)["image_max"] == pytest.approx(0, abs=1e-6)
