"""Train a dense and a sparse model of equal FLOPs on built-in data and compare them, in three minutes at most.

limoe demo                                    what `make demo` runs
limoe demo seed=1                             other weights, and the images in another order
limoe demo 'overrides=["data.names=rule"]'    names that follow a rule: nothing to remember, and nothing to gain
"""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from os.path import relpath
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from limoe.config.objects import plain
from limoe.reporting.findings import number
from limoe.reporting.report import build as build_report
from limoe.runs.layout import REPORT
from limoe.studies.baselines import DENSE, SPARSE, comparison
from limoe.studies.cost import costs_of
from limoe.studies.plan import Plan, plan_study
from limoe.studies.report import conclude
from limoe.studies.results import Row, collect
from limoe.studies.sweep import run_sweep
from limoe.studies.trial import read_state

_TASK = "val/emblems_names"
_KEY = f"{_TASK}/zeroshot_top1"
_METRICS = (_KEY, "val/emblems_retrieval/i2t_r1", "val/emblems_retrieval/t2i_r1", "val/loss")
_QUESTION = "At equal FLOPs per pair, does a sparse one-tower remember more than a dense one?"
_ATLAS = Path("atlas") / "index.html"
_NEXT = (
    "limoe train experiment=demo priority=first_come     # without BPR: dropped tokens tell the pairs apart",
    "limoe study 10_where_sparse_pays dry_run=true       # over experts, things and compute, with seeds",
    "limoe train experiment=scenes                       # shapes, places and colours instead of memory",
)


def run(cfg: DictConfig) -> None:
    """Train both, write the pages, and print one sentence: also after an interrupt, with what there is.

    Raises:
        ConfigError: an override is refused; nothing was run.
    """
    folder = Path(cfg.paths.output_dir).resolve()
    study = comparison(
        ["experiment=demo", *cfg.overrides],
        name="demo",
        seeds=[cfg.seed],
        variants=[DENSE, SPARSE],
        metrics=_METRICS,
        tuned=plain(cfg)["tuned"],
    )
    plan = plan_study(study, root=folder / "trials")
    things = plan.configs[SPARSE].data.count
    print(f"A dense and a sparse model learn the names of {things:,} emblems, one after the other.")
    interrupt = None
    try:
        run_sweep(plan, folder=folder / "sweeps", launcher=[], console=Console())
    except (KeyboardInterrupt, SystemExit) as error:
        interrupt = error
    states = [read_state(trial) for trial in plan.trials]
    rows = collect(plan, states)
    pages = _pages(rows, draw_atlas=interrupt is None)
    links = tuple((name, relpath(path, folder)) for name, path in pages.items())
    answer = sentence(plan, rows)
    conclude(replace(study, question=_QUESTION, links=links, answer=answer), plan, states, out=folder)
    for name, path in pages.items():
        print(f"{name}: {path}")
    print("\nnext:", *_NEXT, sep="\n  ")
    print(f"\n{answer}")
    if interrupt is not None:
        raise interrupt


def sentence(plan: Plan, rows: Sequence[Row]) -> str:
    """Accuracy of both at the end, or at the last validation of a run that did not get to its end."""
    # cost of a pair in training, by variant
    costs = {}
    for cost in costs_of(plan, rows):
        costs[cost.variant] = f"{cost.flops_per_pair / 1e6:.2f} M"

    # the sparse model first
    found = []
    for row in reversed(rows):
        variant = row.trial.variant
        found.append(f"{variant} {_accuracy(row, plan.max_steps[variant])}")

    things = plan.configs[SPARSE].data.count
    chance = number(_KEY, 1 / things)
    at_cost = f"At equal FLOPs per pair in training (sparse {costs[SPARSE]}, dense {costs[DENSE]})"
    return f"{at_cost}: {', '.join(found)} of {things:,} names on new images; chance {chance}."


def _accuracy(row: Row, max_steps: int) -> str:
    curve = row.curves.get(_KEY, {})
    if not curve:
        return f"without a result ({row.state.status})"
    step = max(curve)
    value = number(_KEY, curve[step])
    # Lightning counts steps from 0
    return value if step + 1 >= max_steps else f"{value} after {step + 1} of {max_steps} steps"


def _pages(rows: Sequence[Row], *, draw_atlas: bool) -> dict[str, Path]:
    """The page of each run that has begun, and the atlas of the sparse one if it has finished."""
    pages = {}
    for row in rows:
        if row.state.run is None:
            continue
        build_report(row.state.run)
        pages[f"{row.trial.variant} run"] = row.state.run / REPORT
        if draw_atlas and row.trial.variant == SPARSE and row.state.finished:
            words = [sys.executable, "-m", "limoe", "atlas", str(row.state.run), "knock_out_images=256"]
            subprocess.run(words, check=False, stdout=subprocess.DEVNULL)
            if (row.state.run / _ATLAS).is_file():
                pages["atlas of the experts"] = row.state.run / _ATLAS
    return pages
