"""Metrics of tasks: the same numbers however images and queries are spread over ranks; rules of torchmetrics."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torchmetrics.classification import MulticlassAccuracy

from limoe.evaluation.metrics import Classification, FewShotAccuracy, TaskMetric
from limoe.evaluation.retrieval import RetrievalRecall
from tests.helpers.ranks import run_two

IMAGES, TEXTS, CLASSES = 11, 6, 5
POSITIVES = [(i, i % TEXTS) for i in range(IMAGES)] + [(0, 3), (1, 4), (10, 2)]  # image 10 has texts 2 and 4 ...
SPLITS = {"three of eleven": (3, 5), "nothing on the first": (0, 0), "one on the second": (10, 5)}  # images, texts


def scores() -> torch.Tensor:
    """Small whole numbers, so that there are ties."""
    return torch.randint(-2, 3, (IMAGES, CLASSES), generator=torch.Generator().manual_seed(0)).float()


def labels() -> torch.Tensor:
    return torch.arange(IMAGES) * 3 % (CLASSES - 1)  # the last class has no image


def counted(images: slice, texts: slice) -> list[TaskMetric]:
    """One metric of each kind with a part of the entries, added in two steps."""
    generator = torch.Generator().manual_seed(1)
    image_features, text_features = (torch.randn(n, 3, generator=generator).sign() for n in (IMAGES, TEXTS))
    hits = torch.randint(0, 2, (IMAGES, 2), generator=generator).double()
    classes = Classification("zeroshot", ks=(1, 2))
    recall, few_shot = RetrievalRecall(), FewShotAccuracy({5: 1})
    for part in (slice(images.start, images.start), images):
        classes.update(scores()[part], labels()[part])
        few_shot.update({5: hits[part]})
    recall.update(image_features, text_features, POSITIVES, images=images, texts=texts)
    return [classes, recall, few_shot]


def found(metrics: list[TaskMetric]) -> list[dict[str, Any]]:
    everything = []
    for metric in metrics:
        content: dict[str, Any] = {"numbers": metric.compute()}
        with metric.sync_context():
            content["values"] = {key: measure.values.tolist() for key, measure in metric.measures().items()}
            content["details"] = metric.details()
        everything.append(content)
    return everything


def both_ranks(rank: int) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for name, (images, texts) in SPLITS.items():
        parts = (slice(0, images), slice(0, texts)), (slice(images, IMAGES), slice(texts, TEXTS))
        metrics = counted(*parts[rank])
        result = found(metrics)
        ranks: list[Any] = [None, None]
        torch.distributed.all_gather_object(ranks, [result, len(metrics[0].entries("labels"))])
        results[name] = ranks
    return results


def test_two_ranks_with_uneven_parts_equal_one_process(tmp_path: Path) -> None:
    whole = found(counted(slice(0, IMAGES), slice(0, TEXTS)))
    results = run_two(both_ranks, tmp_path)
    for name, (images, _) in SPLITS.items():
        (first, kept), (second, kept_too) = results[name]
        assert first == whole and second == whole, name
        assert (kept, kept_too) == (images, IMAGES - images)  # each goes on with its own


def test_numbers_are_those_of_torchmetrics_where_nothing_ties() -> None:
    """And where no class without images is predicted."""
    generator = torch.Generator().manual_seed(2)
    random, truth = torch.randn(60, 4, generator=generator), torch.arange(60) % 4
    metric = Classification("x", ks=(1, 2))
    for part, its in zip(random.split(7), truth.split(7), strict=True):
        metric.update(part, its)
    wanted = {f"x_top{k}": MulticlassAccuracy(4, top_k=k, average="micro")(random, truth).item() for k in (1, 2)}
    wanted["x_class_mean"] = MulticlassAccuracy(4, average="macro")(random, truth).item()
    assert metric.compute() == pytest.approx(wanted, abs=1e-6)


def test_numbers_differ_from_torchmetrics_where_the_rules_do() -> None:
    """Equal scores: it gives class 0 its image. A class without images that is predicted: it counts as 0."""
    metric = Classification("x", ks=(1,))
    metric.update(torch.ones(3, 3), torch.arange(3))
    assert metric.compute() == {"x_top1": 0.0, "x_class_mean": 0.0}
    assert MulticlassAccuracy(3, average="micro")(torch.ones(3, 3), torch.arange(3)) == pytest.approx(1 / 3)
    metric.reset()
    likely, truth = torch.tensor([[0.1, 0.8, 0.1], [0.9, 0.0, 0.1]]), torch.tensor([0, 0])
    metric.update(likely, truth)
    assert metric.compute() == {"x_top1": 0.5, "x_class_mean": 0.5}
    assert MulticlassAccuracy(3, average="macro")(likely, truth) == 0.25
