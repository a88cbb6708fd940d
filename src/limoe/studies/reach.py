"""Compute that each variant needs to reach the final value of the baseline."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

from limoe.reporting.sheets import Entry, Sheet, sheet
from limoe.runs.folder import Curve
from limoe.studies.cost import FLOP_UNITS, Cost, unit_of
from limoe.studies.results import Row
from limoe.studies.study import Study


def reach_sheet(study: Study, rows: Sequence[Row], costs: Sequence[Cost]) -> Sheet:
    """Steps and FLOPs to the baseline's final value of the first metric: means over the finished trials.

    The value to reach is the last one of the baseline's curve of the same seed, else the mean over the baseline's
    seeds. Factors are relative to the FLOPs with which the baseline itself first reaches its value. The table has no
    rows if neither direction is better, or the baseline has no curve.
    """
    metric = study.metrics[0]
    unit = unit_of(FLOP_UNITS, largest=max((cost.flops for cost in costs), default=0.0))
    columns = ["variant", "training steps", f"{unit}FLOP", f"relative to {study.baseline}"]
    finals = {seed: curve[max(curve)] for seed, curve in _by_seed(study.baseline, rows, metric.key).items()}
    if metric.higher is None or not finals:
        return sheet("reach", columns, [])
    paces = {cost.variant: cost.flops_per_step for cost in costs}
    order = [study.baseline, *(name for name in study.variants if name != study.baseline)]
    mean = fmean(finals.values())
    steps = {
        name: {
            seed: steps_to(finals.get(seed, mean), curve, higher=metric.higher)
            for seed, curve in _by_seed(name, rows, metric.key).items()
        }
        for name in order
    }
    base = {seed: count * paces.get(study.baseline, math.nan) for seed, count in steps[study.baseline].items() if count}
    return sheet("reach", columns, [[name, *_cells(steps[name], paces.get(name), base, unit)] for name in order])


def steps_to(target: float, curve: Curve, *, higher: bool) -> float | None:
    """Training steps until a curve first reaches `target`, by linear interpolation; None if it never does.

    Steps are logged from 0, so that a value at step s is known after s + 1 steps. A first value beyond the target
    counts at its own step.
    """
    before: tuple[int, float] | None = None
    for step, value in sorted(curve.items()):
        if value >= target if higher else value <= target:
            if before is None:
                return step + 1.0
            share = (target - before[1]) / (value - before[1])
            return before[0] + share * (step - before[0]) + 1.0
        before = (step, value)
    return None


def _by_seed(variant: str, rows: Sequence[Row], key: str) -> dict[int, Curve]:
    """Finite points of the curves of the finished trials that have any."""
    own = [row for row in rows if row.trial.variant == variant and row.state.finished]
    curves = {
        row.trial.seed: {step: y for step, y in row.curves.get(key, {}).items() if math.isfinite(y)} for row in own
    }
    return {seed: curve for seed, curve in curves.items() if curve}


def _cells(
    steps: Mapping[int, float | None], pace: float | None, base: Mapping[int, float], unit: str
) -> list[Entry | str]:
    """Steps, FLOPs and factor of one variant; `pace` and `base` are FLOPs per step, and of the baseline by seed."""
    reached = {seed: count for seed, count in steps.items() if count is not None}
    if len(reached) < len(steps) or not steps:
        missing = f"not reached ({len(steps) - len(reached)} of {len(steps)} seeds)" if steps else "–"
        return [missing, "–", "–"]
    count = fmean(reached.values())
    if pace is None:
        return [Entry(f"{count:,.0f}", count), "–", "–"]
    flops = count * pace / FLOP_UNITS[unit]
    factor = fmean(own * pace / base.get(seed, fmean(base.values())) for seed, own in reached.items())
    known = Entry(f"{factor:.2f} ×", factor) if math.isfinite(factor) else "–"
    return [Entry(f"{count:,.0f}", count), Entry(f"{flops:.3g}", flops), known]
