"""Record of one evaluation for its JSON file: metrics, intervals, chance, prompts."""

from typing import Any

from limoe.config.trees import strict_json
from limoe.data.tasks.kinds import FewShotTask, LinearProbeTask, RetrievalTask, Task, ZeroShotTask
from limoe.evaluation.bootstrap import LEVEL, RESAMPLES, SEED
from limoe.evaluation.metrics import Measure, TaskMetric
from limoe.evaluation.tasks import task_chance
from limoe.evaluation.zero_shot import prompts_sha256

KINDS = {
    ZeroShotTask: "zero_shot",
    RetrievalTask: "retrieval",
    FewShotTask: "few_shot",
    LinearProbeTask: "linear_probe",
}


def evaluation_record(name: str, task: Task, metric: TaskMetric) -> dict[str, Any]:
    """Each metric with chance, 95 % interval and n; the prompts by name and hash; details of the kind of task."""
    chance = task_chance(task)
    return {
        "task": name,
        "kind": KINDS[type(task)],
        "metrics": {key: _metric(measure, chance=chance[key]) for key, measure in metric.measures().items()},
        "interval": {
            "level": LEVEL,
            "method": "percentile bootstrap over images (retrieval: queries)",
            "resamples": RESAMPLES,
            "seed": SEED,
        },
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
