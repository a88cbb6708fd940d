"""Features of texts and images: batches, the cache of class features, and shares of several ranks."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from PIL import Image

from limoe.data.pairs import PairSubset
from limoe.data.tasks.kinds import FewShotTask, LabelledImages, LinearProbeTask, RetrievalTask, Task, ZeroShotTask
from limoe.evaluation.encode import FeatureExtractor
from limoe.evaluation.metrics import Measure, TaskMetric
from limoe.evaluation.tasks import evaluate_task
from limoe.types import Pair
from tests.helpers.builders import tiny_model
from tests.helpers.ranks import run_two


class Images:
    """Grey images, each of its own brightness."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.read: list[int] = []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Pair:
        self.read.append(index)
        return Pair(Image.new("RGB", (8, 8), (index * 9,) * 3), [str(index)], {}, str(index))

    def captions(self) -> Iterator[str]:
        return map(str, range(self.count))


class Tokens:
    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def encode(self, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        self.batches.append(texts)
        ids = torch.tensor([[ord(letter) % 12 + 1 for letter in f"{text:6.6}"] for text in texts])
        return ids, torch.ones_like(ids, dtype=torch.bool)


class Data:
    """Loader batches of three images."""

    def __init__(self) -> None:
        self.tokenizer = Tokens()

    def image_loader(self, images: Any) -> Any:
        tones = [images[i].image.getpixel((0, 0))[0] / 255 for i in range(len(images))]
        pattern = torch.linspace(-1, 1, 3 * 64).view(3, 8, 8)
        return iter(torch.stack([pattern.roll(round(40 * tone), 2) * tone for tone in tones]).split(3))


def encoder(**settings: Any) -> FeatureExtractor:
    torch.manual_seed(0)
    return FeatureExtractor(tiny_model(), Data(), **settings)


def tasks() -> list[Task]:
    """Odd numbers of images and texts, so that the shares of two ranks are filled up."""
    part = LabelledImages(Images(7), [i % 3 for i in range(7)])
    return [
        ZeroShotTask(Images(7), part.labels, ["ab", "cd", "ef"], ["{}!", "a {}", "the {}"]),
        RetrievalTask(Images(7), ["one", "two", "six", "ten", "red"], [(i, i % 5) for i in range(7)]),
        FewShotTask(part, part, ["ab", "cd", "ef"], shots=(1, 2), seeds=(0, 1)),
        LinearProbeTask(part, part, ["ab", "cd", "ef"], strengths=(1e-3,)),
        ZeroShotTask(Images(1), [0], ["ab", "cd"], ["{}!"]),  # nothing is left for the second rank
    ]


def test_the_image_head_reads_the_trunk() -> None:
    model = tiny_model().eval()
    images = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        trunk = model.image_trunk(images)
        head = torch.nn.functional.normalize(model.image_head(trunk), dim=-1)
    assert trunk.shape == (2, 16) and torch.allclose(head, model.encode_image(images))


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4])
def test_text_batches_never_exceed_the_size_and_change_nothing(batch_size: int) -> None:
    words = ["one", "two", "six", "ten", "red"]
    batched = encoder(batch_size=batch_size)
    assert torch.allclose(batched.texts(words), encoder().texts(words), atol=1e-6)
    sizes = [len(batch) for batch in batched.data.tokenizer.batches]
    assert max(sizes) <= batch_size and sum(sizes) == 5


def test_class_features_are_computed_once_per_list_of_prompts() -> None:
    source = encoder()
    first = source.classes(["ab", "cd"], ["{}!"])
    assert source.classes(["ab", "cd"], ["{}!"]) is first
    assert source.data.tokenizer.batches == [["ab!", "cd!"]]
    source.classes(["ab", "cd"], ["{}?"])
    source.classes(["cd", "ab"], ["{}!"])
    assert len(source.data.tokenizer.batches) == 3


def test_batches_of_no_texts_are_refused() -> None:
    with pytest.raises(ValueError, match="batch_size must be >= 1"):
        encoder(batch_size=0)


def test_picked_images_in_any_order() -> None:
    picked = PairSubset(Images(5), [4, 1, 1])
    assert [pair.key for pair in (picked[i] for i in range(len(picked)))] == ["4", "1", "1"]
    with pytest.raises(IndexError):
        picked[3]


def gathered(metric: TaskMetric) -> dict[str, Measure]:
    with metric.sync_context():
        return metric.measures()


def results(source: FeatureExtractor) -> list[dict[str, Any]]:
    return [
        {key: measure.values.tolist() for key, measure in gathered(evaluate_task(source, task)).items()}
        for task in tasks()
    ]


def shares(rank: int) -> dict[str, Any]:
    images, source = Images(7), encoder()
    features = source.images(images)
    found = {"features": features.tolist(), "results": results(source), "read": list(images.read)}
    alone = encoder(alone=True).images(images) if rank == 0 else features  # no rank waits for another
    ranks: list[Any] = [None, None]
    dist.all_gather_object(ranks, found)
    return {"ranks": ranks, "alone": alone}


def test_two_ranks_count_each_image_once_and_equal_one_process(tmp_path: Path) -> None:
    found = run_two(shares, tmp_path)
    first, second = found["ranks"]
    assert (first["read"], second["read"]) == ([0, 1, 2, 3], [4, 5, 6, 6])  # half each; the last one fills up
    assert first["features"] == second["features"] and first["results"] == second["results"]
    whole = encoder()
    assert torch.allclose(torch.tensor(first["features"]), whole.images(Images(7)), atol=1e-6)
    assert torch.allclose(found["alone"], whole.images(Images(7)), atol=1e-6)
    assert first["results"] == results(whole)
