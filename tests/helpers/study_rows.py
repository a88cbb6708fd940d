"""A study of three variants and its rows, worked out by hand, for the tests of tables, pages and curves."""

import math
from pathlib import Path

from omegaconf import OmegaConf

from limoe.runs.folder import RunFolder
from limoe.studies.cost import Cost
from limoe.studies.plan import Plan
from limoe.studies.results import Row
from limoe.studies.study import Metric, Published, Study
from limoe.studies.trial import State, Trial

TOP1 = "val/x/zeroshot_top1"
STUDY = Study(
    name="my_study",
    question="Is <b> better?",
    base=("experiment=scenes",),
    variants={"a": (), "b": ("aux_loss=none",), "c": ("seedless=1",)},
    seeds=(0, 1, 2),
    metrics=(Metric(TOP1, "accuracy"), Metric("val/loss", "loss", higher=False)),
    baseline="a",
    published=(Published("B/16", "73.7 %", "second-hand"),),
)


def row(variant: str, seed: int, status: str = "done", **metrics: float) -> Row:
    trial = Trial(variant, seed, (), "0123456789ab", Path("nowhere"))
    record = {"metrics": metrics, "chance": {TOP1: 0.05}, "git_commit": "f" * 40}
    curves = {TOP1: {10: 0.1, 20: metrics.get(TOP1, math.nan)}}
    run = RunFolder(Path("nowhere"), record=record, curves=curves)
    return Row.of(trial, State(status, 60.0, Path("nowhere/try_1"), "" if status == "done" else "why"), [run])


ROWS = [
    *(
        row("a", seed, **{TOP1: 0.30 + 0.01 * seed, "val/loss": 2.0, "router/text/success_rate": 0.95})
        for seed in range(3)
    ),
    *(row("b", seed, **{TOP1: 0.40 + 0.01 * seed, "val/loss": 2.0 + 0.1 * (seed - 1)}) for seed in range(3)),
    row("c", 0, status="failed", **{TOP1: 0.9}),
]
CONFIGS = {name: OmegaConf.create({"seed": 0, "aux": {"w": n}, "same": 1}) for n, name in enumerate("abc")}
PLAN = Plan(tuple(r.trial for r in ROWS), (TOP1,), None, dict.fromkeys("abc", 20), CONFIGS)
COSTS = [Cost(name, 10_000_000, 4_000_000, 1e9, 64, 20, None) for name in "abc"]
