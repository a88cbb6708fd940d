"""Report of a study: rows, tables, a figure and one self-contained page."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console

from limoe.files import write_text
from limoe.reporting.findings import number
from limoe.reporting.plots import data_uri
from limoe.reporting.sheets import sheet, write_sheet
from limoe.reporting.templates import template
from limoe.runs.layout import REPORT
from limoe.studies import side_tables
from limoe.studies.cost import BUILDS_NO_MODEL, Cost, costs_of, print_cost
from limoe.studies.curves import AXES, MAX_POINTS, RATES, health_figures, metric_figures, with_curves, write_curves
from limoe.studies.metrics import common_metrics
from limoe.studies.overview import answer_plot
from limoe.studies.panels import check_panels, panel_svg
from limoe.studies.plan import Plan, differences
from limoe.studies.reach import reach_sheet
from limoe.studies.results import RUNS, Row, collect, read_csv, write_csv
from limoe.studies.study import Metric, Study
from limoe.studies.sweep import run_sweep, status_table
from limoe.studies.tables import compare, number_sheet, result_sheet, sentence
from limoe.studies.trial import State

FIGURE = "answer.svg"
MAIN = 5  # metrics in the main table, the curves and the table of trials; others have a table of their own
MARKDOWN = "report.md"
_TEMPLATES = {REPORT: "studies/study.html.j2", MARKDOWN: "studies/study.md.j2"}
_TRAINING = Metric("train/contrastive", "contrastive loss in training", higher=False)


def carry_out(study: Study, plan: Plan, cfg: DictConfig, *, root: Path, out: Path) -> None:
    """Run the trials without a result, then report to `out`; the exit code is 1 if a trial has no result.

    With `cfg.dry_run` print what would run; with `cfg.report_only` report on the rows in `out`.
    """
    check_panels(study, plan.configs)
    if cfg.dry_run:
        print_cost(plan)
        return
    states = None
    if not cfg.report_only:
        console = Console()
        launcher = HydraConfig.get().overrides.hydra
        states = run_sweep(plan, folder=root / "sweeps", launcher=launcher, console=console)
        console.print(status_table(plan, states))
    conclude(study, plan, states, out=out)
    if states is not None and not all(state.finished for state in states):
        sys.exit(1)


def conclude(study: Study, plan: Plan, states: Sequence[State] | None, *, out: Path) -> None:
    """Write rows and curves of a sweep and their report; without `states` only the report, on the files in `out`.

    Raises:
        DataError: `out` has no rows, or its files cannot be read.
    """
    if states is None:
        found = read_csv(out / RUNS)
        known = {name: study.seeds_of(name) for name in study.variants}
        rows = [row for row in found if row.trial.seed in known.get(row.trial.variant, ())]
    else:
        rows = collect(plan, states)
        write_csv(rows, out / RUNS)
    study = study if study.metrics else replace(study, metrics=common_metrics(rows))
    if states is not None:
        keys = dict.fromkeys(metric.key for metric in (*study.metrics[:MAIN], _TRAINING, *RATES))
        write_curves(study, rows, out, keys=list(keys))
    write_report(study, plan, with_curves(rows, out), out=out)  # both times the same page


def write_report(study: Study, plan: Plan, rows: list[Row], *, out: Path) -> None:
    """Write the page as HTML and Markdown, its figure, and every table as CSV; print the main result.

    The table of rows is written by `conclude`.
    """
    out.mkdir(parents=True, exist_ok=True)
    found = contents(study, plan, rows, costs=costs_of(plan, rows, leave_out=BUILDS_NO_MODEL))
    write_sheet(number_sheet(study, found["lines"]), out)
    for name, table in found["sheets"].items():
        if name != "runs":
            write_sheet(table, out)
    for name, (_, image) in {FIGURE: ("", found["image"]), **found["figures"]}.items():
        write_text(out / name, image)
    for name in _TEMPLATES:
        write_text(out / name, render(found, name))
    print(found["answer"])
    for name in (REPORT, RUNS):
        print(f"{name.partition('.')[0]}: {(out / name).resolve()}")


def render(found: Mapping[str, Any], name: str) -> str:
    """The text of the page `name`: "report.html" or "report.md"."""
    return template(_TEMPLATES[name], data_uri=data_uri).render(found)


def contents(study: Study, plan: Plan, rows: Sequence[Row], *, costs: Sequence[Cost]) -> dict[str, Any]:
    """Content of the pages, by the names in their templates."""
    lines = compare(study, rows)
    changes = differences(plan.configs, baseline=study.baseline)
    chance = {key: value for row in rows for key, value in row.chance.items()}
    metrics = [metric for metric in study.metrics[:MAIN] if not metric.key.startswith("router/")]
    curves = metric_figures(study, rows, costs, metrics=[*metrics, _TRAINING])
    figures = {
        f"{panel.name}.svg": (panel.title, image)
        for panel in study.figures
        if (image := panel_svg(panel, study, rows, costs, configs=plan.configs, chance=chance))
    }
    tables = (
        side_tables.tuned_sheet(study),
        reach_sheet(study, rows, costs),
        side_tables.routing_sheet(study, rows, plan.configs),
        side_tables.cost_sheet(costs),
        side_tables.trial_sheet(study.metrics[:MAIN], rows),
        side_tables.difference_sheet(changes),
        sheet("published", ["what", "value", "certainty"], study.published),
    )
    return {
        "study": study,
        "rows": rows,
        "lines": lines,
        "results": [result_sheet(study, lines, slice(0, MAIN)), result_sheet(study, lines, slice(MAIN, None))],
        "sheets": {table.name: table for table in tables},
        "answer": sentence(study, lines),
        "image": answer_plot(study, rows, chance=chance),
        "figures": figures,
        "finished": sum(row.state.finished for row in rows),
        "successful": sum(row.successful for row in rows),
        "chance": [(m.name, number(m.key, chance[m.key])) for m in study.metrics[:MAIN] if m.key in chance],
        "axes": [axis for axis in AXES if any(figure.axis == axis for figure in curves)],
        "curves": curves,
        "max_points": MAX_POINTS,
        "health": health_figures(study, rows),
        "uncosted": [variant for variant in study.variants if variant not in {cost.variant for cost in costs}],
        "commits": sorted({row.commit[:12] + row.commit[40:] for row in rows if row.commit}),
        "differences": changes,
    }
