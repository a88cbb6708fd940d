"""What a report compares where its study does not say it."""

from pathlib import Path

from limoe.studies.metrics import common_metrics, metric
from limoe.studies.results import Row
from limoe.studies.trial import State, Trial

TOP1, R1, LOSS = "val/shapes/zeroshot_top1", "val/found/i2t_r1", "val/loss"
SUCCESS = {"router/image/success_rate": 0.95, "router/text/success_rate": 0.92}


def row(**metrics: float) -> Row:
    return Row(Trial("a", 0, (), "", Path("x")), State("done"), metrics)


def test_metrics_are_those_that_all_finished_runs_have() -> None:
    rows = [
        row(**{LOSS: 2.0, "val/x/i2t_r10": 0.5, "val/x/i2t_r5": 0.3, TOP1: 0.2, "train/loss": 1.0, **SUCCESS}),
        row(**{LOSS: 2.0, "val/x/i2t_r10": 0.5, "val/x/i2t_r5": 0.3, TOP1: 0.2, R1: 0.1}),
        Row(Trial("a", 1, (), "", Path("x")), State("failed")),
    ]
    keys = [TOP1, LOSS, "val/x/i2t_r5", "val/x/i2t_r10", *SUCCESS]
    assert [found.key for found in common_metrics(rows)] == keys
    assert [found.higher for found in common_metrics(rows)] == [True, False, True, True, True, True]
    assert [found.key for found in common_metrics(rows[2:])] == [LOSS]
    assert metric(LOSS).name == "validation loss" and metric(TOP1).name == "shapes/zeroshot_top1"
