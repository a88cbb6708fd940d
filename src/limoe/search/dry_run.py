"""What a search would run, and what it takes."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from limoe.reporting.findings import duration
from limoe.search.points import Point, trials_of
from limoe.search.spec import Search
from limoe.studies.cost import Cost, costs_of
from limoe.studies.plan import Plan
from limoe.studies.results import Row, collect
from limoe.studies.trial import read_state


def base_cost(base: Plan, points: Sequence[Point], *, root: Path) -> Cost:
    """Of one training of the base; its pace is that of the trainings which the points have finished."""
    (cost,) = costs_of(base, _rows(base, points, root=root))
    return cost


def print_dry_run(search: Search, base: Plan, points: Sequence[Point], *, root: Path, console: Console) -> None:
    """The space, the cost of one training, and of all that are left."""
    table = Table("parameter", "values", title=search.study.question, title_justify="left")
    for key, parameter in search.space.items():
        table.add_row(key, Text(str(parameter)))
    console.print(table)
    cost, trainings = base_cost(base, points, root=root), search.trials * len(search.study.seeds)
    work = cost.flops_per_pair * cost.pairs_per_step * cost.max_steps / 1e15
    left = max(0, search.trials - sum(point.ended for point in points))
    pace = cost.seconds_per_step
    each = None if pace is None else pace * cost.max_steps
    said = [
        f"base: limoe train {' '.join(search.study.base)}",
        f"one training of the base: {cost.max_steps:,} steps, {cost.parameters / 1e6:.2f} M parameters, "
        f"{work:.3g} PFLOP, {duration(each) or 'time unknown until one has finished'}",
        f"{search.trials} points, {trainings} trainings, {work * trainings:.3g} PFLOP; {left} points are left",
    ]
    if each is not None:
        time = duration(each * left * len(search.study.seeds))
        said.append(f"{time} of training left at the pace so far, one at a time")
    for line in said:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _rows(base: Plan, points: Sequence[Point], *, root: Path) -> list[Row]:
    trials = tuple(trial for point in points for trial in trials_of(point, root=root))
    plan = Plan(trials, base.metrics, base.timeout, base.max_steps, base.configs)
    return collect(plan, [read_state(trial) for trial in trials])
