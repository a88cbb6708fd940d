"""Run one evaluation task with a model: what the validation callbacks and `limoe eval` share."""

from functools import partial
from typing import Any

import torch
from torchmetrics.classification import MulticlassAccuracy

from limoe.errors import DataError, require
from limoe.evaluation.encode import EvaluationData, encode_pictures, encode_texts, evaluating
from limoe.evaluation.retrieval import retrieval_chance, retrieval_recall
from limoe.evaluation.zero_shot import chance_top_k, class_embeddings, classify
from limoe.types import RetrievalTask, ZeroShotTask


def evaluate_zero_shot(
    model: Any, data: EvaluationData, task: ZeroShotTask, *, batch_size: int = 256, progress: str | None = None
) -> dict[str, float]:
    """`zeroshot_top1`, `zeroshot_top5` (share of pictures) and `zeroshot_class_mean` (top-1, mean over classes).

    `batch_size` counts prompts. Classes without a picture are offered as answers but don't enter the class mean:
    the macro average of torchmetrics would count them as zeros as soon as one picture is mistaken for them.
    """
    check_zero_shot(task)
    classes = len(task.class_names)
    top1, top5 = (
        MulticlassAccuracy(classes, top_k=k, average="micro", sync_on_compute=False) for k in (1, min(5, classes))
    )
    per_class = MulticlassAccuracy(classes, average="none", sync_on_compute=False)
    labels = torch.as_tensor(task.labels)
    with evaluating(model):
        class_features = class_embeddings(
            partial(encode_texts, model, data.tokenizer),
            class_names=task.class_names,
            templates=task.templates,
            batch_size=batch_size,
        )
        start = 0
        for features in encode_pictures(model, data, task.pictures, progress=progress):
            logits = classify(features, class_features)
            target = labels[start : start + len(features)]
            for metric in (top1, top5, per_class):
                metric.update(logits, target)
            start += len(features)
    return {
        "zeroshot_top1": top1.compute().item(),
        "zeroshot_top5": top5.compute().item(),
        "zeroshot_class_mean": per_class.compute()[labels.unique()].mean().item(),
    }


def check_zero_shot(task: ZeroShotTask) -> None:
    """Raises `ConfigError` or `DataError` on a task that can't be scored."""
    classes, pictures = len(task.class_names), len(task.pictures)
    require(classes >= 2, "class_names", "at least 2 classes", classes)
    if len(task.labels) != pictures or pictures == 0:
        raise DataError(f"zero-shot task: {pictures} pictures need as many labels, got {len(task.labels)}")
    if not all(0 <= label < classes for label in task.labels):
        raise DataError(
            f"zero-shot task: labels must lie in 0..{classes - 1}, got {min(task.labels)}..{max(task.labels)}"
        )


def evaluate_retrieval(
    model: Any, data: EvaluationData, task: RetrievalTask, *, batch_size: int = 256, progress: str | None = None
) -> dict[str, float]:
    """`i2t_r1|r5|r10` and `t2i_r1|r5|r10`. `batch_size` counts texts."""
    texts = list(task.texts)
    with evaluating(model):
        batches = [texts[i : i + batch_size] for i in range(0, len(texts), batch_size)]
        text_features = torch.cat([encode_texts(model, data.tokenizer, batch) for batch in batches])
        image_features = torch.cat(list(encode_pictures(model, data, task.pictures, progress=progress)))
    return retrieval_recall(image_features, text_features, task.positives)


def evaluate_task(
    model: Any,
    data: EvaluationData,
    task: ZeroShotTask | RetrievalTask,
    *,
    batch_size: int = 256,
    progress: str | None = None,
) -> dict[str, float]:
    """Whatever the kind of the task asks for."""
    if isinstance(task, ZeroShotTask):
        return evaluate_zero_shot(model, data, task, batch_size=batch_size, progress=progress)
    return evaluate_retrieval(model, data, task, batch_size=batch_size, progress=progress)


def task_chance(task: ZeroShotTask | RetrievalTask) -> dict[str, float]:
    """What guessing reaches on average, under the keys of `evaluate_task`: uniform classes, a random order."""
    if isinstance(task, RetrievalTask):
        return retrieval_chance(task.positives, num_images=len(task.pictures), num_texts=len(task.texts))
    top1, top5 = (chance_top_k(len(task.class_names), k=k) for k in (1, 5))
    return {"zeroshot_top1": top1, "zeroshot_top5": top5, "zeroshot_class_mean": top1}
