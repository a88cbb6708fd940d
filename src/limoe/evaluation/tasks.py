"""Evaluation of a model on one task, for the validation callbacks and `limoe eval`, and its record as JSON."""

from typing import Any

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from limoe.config.trees import strict_json
from limoe.data.pairs import PairSubset
from limoe.data.tasks.kinds import FewShotTask, LabelledImages, LinearProbeTask, RetrievalTask, Task, ZeroShotTask
from limoe.errors import DataError, require_argument
from limoe.evaluation.encode import FeatureExtractor
from limoe.evaluation.few_shot import ridge_scores, shots_of
from limoe.evaluation.linear_probe import linear_probe
from limoe.evaluation.metrics import INTERVAL, Classification, FewShotAccuracy, Measure, TaskMetric, ranks_of
from limoe.evaluation.retrieval import RetrievalRecall, retrieval_chance
from limoe.evaluation.zero_shot import chance_top_k, classify, prompts_sha256

_CHUNK = 1024  # images per matrix of scores
KINDS = {
    ZeroShotTask: "zero_shot",
    RetrievalTask: "retrieval",
    FewShotTask: "few_shot",
    LinearProbeTask: "linear_probe",
}


def evaluate_task(encoder: FeatureExtractor, task: Task, *, progress: str | None = None) -> TaskMetric:
    """The metric of the task, updated with the share of this rank. `progress`: label of the progress bars.

    Raises `ArgumentError` or `DataError` on a task that can't be scored.
    """
    match task:
        case ZeroShotTask():
            metric: TaskMetric = evaluate_zero_shot(encoder, task, progress=progress)
        case RetrievalTask():
            metric = evaluate_retrieval(encoder, task, progress=progress)
        case FewShotTask():
            metric = evaluate_few_shot(encoder, task, progress=progress)
        case LinearProbeTask():
            metric = evaluate_linear_probe(encoder, task, progress=progress)
    return metric.to(next(encoder.model.parameters()).device)  # the process group gathers on this device


def task_chance(task: Task) -> dict[str, float]:
    """Expected metrics of random predictions (uniform classes, random order), under the keys of `evaluate_task`."""
    if isinstance(task, RetrievalTask):
        return retrieval_chance(task.positives, num_images=len(task.images), num_texts=len(task.texts))
    top1, top5 = (chance_top_k(len(task.class_names), k=k) for k in (1, 5))
    match task:
        case ZeroShotTask():
            return {"zeroshot_top1": top1, "zeroshot_top5": top5, "zeroshot_class_mean": top1}
        case FewShotTask():
            return {f"fewshot{shots}_top1": top1 for shots in task.shots}
        case LinearProbeTask():
            return {"linear_probe_top1": top1, "linear_probe_class_mean": top1}


def evaluate_zero_shot(encoder: FeatureExtractor, task: ZeroShotTask, *, progress: str | None = None) -> Classification:
    """`zeroshot_top1`, `zeroshot_top5`, `zeroshot_class_mean`."""
    labels = _checked(LabelledImages(task.images, task.labels), classes=len(task.class_names))
    class_features = encoder.classes(task.class_names, task.templates)
    features = encoder.images(task.images, gathered=False, progress=progress)
    metric = Classification("zeroshot", ks=(1, 5))
    own = labels[encoder.share(len(labels))]
    for part, its_labels in zip(features.split(_CHUNK), own.split(_CHUNK), strict=True):
        metric.update(classify(part, class_features), its_labels)
    return metric


def evaluate_retrieval(
    encoder: FeatureExtractor, task: RetrievalTask, *, progress: str | None = None
) -> RetrievalRecall:
    """`i2t_r1|r5|r10` and `t2i_r1|r5|r10`; one value per query that has a positive."""
    text_features = encoder.texts(task.texts, progress=progress)
    image_features = encoder.images(task.images, progress=progress)
    metric = RetrievalRecall()
    images, texts = encoder.share(len(image_features)), encoder.share(len(text_features))
    metric.update(image_features, text_features, task.positives, images=images, texts=texts)
    return metric


def evaluate_few_shot(encoder: FeatureExtractor, task: FewShotTask, *, progress: str | None = None) -> FewShotAccuracy:
    """`fewshot<shots>_top1`. Only the training images picked by some seed are encoded."""
    require_argument(len(task.shots) > 0 and min(task.shots) >= 1, "shots", "a list of numbers >= 1", list(task.shots))
    require_argument(len(task.seeds) > 0, "seeds", "a list with at least one number", list(task.seeds))
    require_argument(task.l2 > 0, "l2", "> 0", task.l2)
    classes = len(task.class_names)
    labels, test_labels = (_checked(part, classes=classes) for part in (task.train, task.test))
    picks = {
        (shots, seed): shots_of(labels, num_classes=classes, shots=shots, seed=seed)
        for shots in task.shots
        for seed in task.seeds
    }
    used = torch.cat(list(picks.values())).unique()
    train = encoder.images(PairSubset(task.train.images, used.tolist()), before_head=True, progress=progress).double()
    test = encoder.images(task.test.images, before_head=True, gathered=False, progress=progress).double()
    own = test_labels[encoder.share(len(test_labels))]

    def hits(shots: int, seed: int) -> Float64[Tensor, "n"]:
        picked = picks[shots, seed]
        support = train[torch.searchsorted(used, picked)]
        scores = ridge_scores(support, labels[picked], test, num_classes=classes, l2=task.l2)
        return (ranks_of(scores, own) == 0).double()

    images = labels.bincount(minlength=classes)
    metric = FewShotAccuracy({k: int((images < k).sum()) for k in task.shots})
    metric.update({k: torch.stack([hits(k, seed) for seed in task.seeds], dim=1) for k in task.shots})
    return metric


def evaluate_linear_probe(
    encoder: FeatureExtractor, task: LinearProbeTask, *, progress: str | None = None
) -> Classification:
    """`linear_probe_top1` and `linear_probe_class_mean`; the details hold the selected strength, and all candidates."""
    good = len(task.strengths) > 0 and min(task.strengths) > 0
    require_argument(good, "strengths", "a list of numbers > 0", list(task.strengths))
    classes = len(task.class_names)
    labels, test_labels = (_checked(part, classes=classes) for part in (task.train, task.test))
    train, test = (
        encoder.images(part.images, before_head=True, progress=progress).double() for part in (task.train, task.test)
    )
    probing = linear_probe(
        train, labels, test, num_classes=classes, strengths=task.strengths, progress=f"{progress}: strengths"
    )
    tried = {f"{strength:g}": accuracy for strength, accuracy in probing.tried.items()}
    details = {"strength": probing.strength, "held_out_top1": tried}
    metric = Classification("linear_probe", ks=(1,), **details)
    own = encoder.share(len(test_labels))
    metric.update(probing.scores[own], test_labels[own])
    return metric


def _checked(part: LabelledImages, *, classes: int) -> Int64[Tensor, "n"]:
    """The labels as a tensor. Raises unless there are two classes, and one label in range per image."""
    images, labels = len(part.images), part.labels
    require_argument(classes >= 2, "class_names", "at least 2 classes", classes)
    if len(labels) != images or images == 0:
        raise DataError(f"evaluation task: {images} images need as many labels, got {len(labels)}")
    if not all(0 <= label < classes for label in labels):
        raise DataError(f"evaluation task: labels must be in 0..{classes - 1}, got {min(labels)}..{max(labels)}")
    return torch.as_tensor(labels)


def evaluation_record(name: str, task: Task, metric: TaskMetric) -> dict[str, Any]:
    """Each metric with chance, 95 % interval and n; the prompts by name and hash; details of the kind of task."""
    chance = task_chance(task)
    return {
        "task": name,
        "kind": KINDS[type(task)],
        "metrics": {key: _metric(measure, chance=chance[key]) for key, measure in metric.measures().items()},
        "interval": INTERVAL,
        "prompts": _prompts(task) if isinstance(task, ZeroShotTask) else None,
        "details": strict_json(metric.details()),
    }


def _metric(measure: Measure, *, chance: float) -> dict[str, float]:
    low, high = measure.interval()
    return {"value": measure.value, "low": low, "high": high, "chance": chance, "n": len(measure.values)}


def _prompts(task: ZeroShotTask) -> dict[str, Any]:
    """Prompts of the task; `sha256` is that of the names and templates in use, independent of their file."""
    return {
        "name": task.source.name,
        "sha256": prompts_sha256(task.class_names, task.templates),
        "classes": len(task.class_names),
        "templates": len(task.templates),
        "files": dict(task.source.files),
    }
