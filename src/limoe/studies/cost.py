"""Cost of the variants of a study: parameters and FLOPs computed, times measured."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.table import Table

from limoe.accounting.anatomy import anatomy, without_values
from limoe.accounting.flops import flops
from limoe.accounting.parameters import parameters
from limoe.build import build_model
from limoe.reporting.findings import duration
from limoe.studies.plan import Plan
from limoe.studies.results import Row, collect
from limoe.studies.trial import read_state

FLOP_UNITS = {"E": 1e18, "P": 1e15, "T": 1e12, "G": 1e9}
# The config of a run from elsewhere may be of another version of limoe.
BUILDS_NO_MODEL = (ValueError, TypeError, HydraException, OmegaConfBaseException)


@dataclass(frozen=True)
class Cost:
    """Cost of one variant. `flops_per_pair`: of a training step, no token dropped; `seconds_per_step`: seconds of the
    whole run (evaluation included) per step, None until a trial has finished; `cpu_seconds`: median CPU time of a
    whole run, None if no finished trial has recorded it."""

    variant: str
    parameters: int
    active: int
    flops_per_pair: float
    pairs_per_step: int
    max_steps: int
    seconds_per_step: float | None
    cpu_seconds: float | None = None

    @property
    def flops_per_step(self) -> float:
        return self.flops_per_pair * self.pairs_per_step

    @property
    def flops(self) -> float:
        """FLOPs of a whole training."""
        return self.flops_per_step * self.max_steps


def unit_of(units: Mapping[str, float], *, largest: float, at_least: float = 1.0) -> str:
    """The largest unit in which the largest value is `at_least` that number, else the smallest unit.

    `units` maps names to sizes, largest first.
    """
    return next((unit for unit, size in units.items() if largest >= at_least * size), list(units)[-1])


def costs_of(plan: Plan, rows: Sequence[Row], *, leave_out: tuple[type[Exception], ...] = ()) -> list[Cost]:
    """Costs in the order of the plan, without variants with a model that raises one of `leave_out`."""
    costs = []
    for name, cfg in plan.configs.items():
        with contextlib.suppress(*leave_out):
            costs.append(_cost(name, cfg, rows))
    return costs


def print_cost(plan: Plan) -> None:
    """Print the trials that would run, and their cost."""
    rows = collect(plan, [read_state(trial) for trial in plan.trials])
    table = Table("variant", title=f"{len(plan.trials)} trials", title_justify="left")
    costs = costs_of(plan, rows)
    unit = unit_of(FLOP_UNITS, largest=max(cost.flops for cost in costs))
    for column in ("seeds", "done", "steps", "params", f"{unit}FLOP each", "time each", "time left"):
        table.add_column(column, justify="right")
    left: list[float | None] = []
    commands = []
    for cost in costs:
        own = [row for row in rows if row.trial.variant == cost.variant]
        done = sum(row.state.finished for row in own)
        each = None if cost.seconds_per_step is None else cost.seconds_per_step * cost.max_steps
        left.append(0.0 if done == len(own) else None if each is None else each * (len(own) - done))
        sizes = (f"{cost.max_steps:,}", f"{cost.parameters / 1e6:.2f} M", f"{cost.flops / FLOP_UNITS[unit]:.3g}")
        cells = (f"{len(own)}", f"{done}", *sizes)
        table.add_row(cost.variant, *cells, duration(each) or "unknown", duration(left[-1]) or "unknown")
        words = [*own[0].trial.overrides[:-1], f"seed={','.join(str(row.trial.seed) for row in own)}"]
        commands.append(f"{cost.variant}: limoe train {' '.join(words)}")
    Console().print(table)
    for command in commands:
        print(command)
    if None in left:
        print("Times are known once a trial of each variant has finished.")
    else:
        total = sum(value for value in left if value is not None)
        print(f"{duration(total)} of training left, at the pace of the finished trials, one at a time.")


def _cost(name: str, cfg: DictConfig, rows: Sequence[Row]) -> Cost:
    with without_values():
        model = build_model(cfg)
    own = [row for row in rows if row.trial.variant == name and row.state.finished]
    paces = [row.seconds_per_step for row in own if row.seconds_per_step is not None]
    times = [row.cpu_seconds for row in own if row.cpu_seconds is not None]
    devices = cfg.trainer.devices  # "auto" counts as one
    nodes = cfg.trainer.get("num_nodes", 1)
    parts = anatomy(model)  # type: ignore[arg-type]
    pairs = int(cfg.data.batch_size)
    counts = parameters(model, parts, pairs=pairs)
    return Cost(
        variant=name,
        parameters=counts["total"],
        active=counts["active_per_token"],
        flops_per_pair=flops(parts, pairs=pairs)["train_pair"],
        pairs_per_step=pairs * (devices if isinstance(devices, int) and devices > 0 else 1) * nodes,
        max_steps=int(cfg.trainer.max_steps),
        seconds_per_step=median(paces) if paces else None,
        cpu_seconds=median(times) if times else None,
    )
