"""Test images with their predicted classes, written into the run folder after training."""

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

from limoe.callbacks.base import TaskCallback
from limoe.data.pairs import PairSubset
from limoe.data.tasks.kinds import ZeroShotTask
from limoe.errors import require_argument
from limoe.evaluation.encode import EvaluationData, FeatureExtractor
from limoe.evaluation.zero_shot import classify
from limoe.files import write_json
from limoe.runs.layout import SAMPLE_LIST, SAMPLES

_TOP = 3
_SIDE = 160  # pixels of the longer side of a saved image


class SamplePredictions(TaskCallback):
    """Write `samples/samples.json` and its images for the first `ZeroShotTask`.

    The `count` images are spread over the classes by the labels alone, so all runs show the same ones.
    Probabilities are the softmax over all classes at the learned temperature. `batch_size` counts prompts.
    """

    kind = ZeroShotTask

    def __init__(self, *, count: int = 24, batch_size: int = 256) -> None:
        require_argument(count >= 1, "count", ">= 1 (images)", count)
        require_argument(batch_size >= 1, "batch_size", ">= 1 (texts)", batch_size)
        super().__init__()
        self.count = count
        self.batch_size = batch_size

    @rank_zero_only
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for name, task in list(self.tasks.items())[:1]:
            picked = spread(task.labels, count=self.count)
            data: Any = trainer.datamodule  # type: ignore[attr-defined]
            top = predictions(pl_module.model, data, task, picked=picked, batch_size=self.batch_size)
            write_samples(Path(trainer.default_root_dir), name=name, task=task, picked=picked, top=top)


def spread(labels: Sequence[int], *, count: int) -> list[int]:
    """Up to `count` positions, sorted: a second image of a class is taken only after one of every class."""
    order = list(range(len(labels)))
    random.Random(0).shuffle(order)
    taken: Counter[int] = Counter()
    rounds = {}
    for index in order:
        rounds[index] = taken[labels[index]]
        taken[labels[index]] += 1
    return sorted(sorted(order, key=rounds.__getitem__)[:count])


def predictions(
    model: Any, data: EvaluationData, task: ZeroShotTask, *, picked: Sequence[int], batch_size: int
) -> list[list[tuple[str, float]]]:
    """The three most probable class names of each picked image, with their probabilities."""
    encoder = FeatureExtractor(model, data, batch_size=batch_size, alone=True)
    class_features = encoder.classes(task.class_names, task.templates)
    features = encoder.images(PairSubset(task.images, picked))
    logits = model.logit_scale.detach().exp().float().cpu() * classify(features, class_features)
    best = logits.softmax(-1).topk(min(_TOP, len(task.class_names)))
    return [
        [(task.class_names[i], p) for i, p in zip(indices, values, strict=True)]
        for indices, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def write_samples(
    run: Path,
    *,
    name: str,
    task: ZeroShotTask,
    picked: Sequence[int],
    top: Sequence[Sequence[tuple[str, float]]],
) -> None:
    """Write the images first and the list last, so that the list never names a missing image."""
    folder = run / SAMPLES
    folder.mkdir(parents=True, exist_ok=True)
    items = []
    for number, (index, guesses) in enumerate(zip(picked, top, strict=True)):
        file = f"{number:03d}.png"
        image = task.images[index].image.copy()
        image.thumbnail((_SIDE, _SIDE))
        image.save(folder / file)
        items.append({"image": file, "truth": task.class_names[task.labels[index]], "top": [list(g) for g in guesses]})
    write_json(run / SAMPLE_LIST, {"task": name, "items": items})
