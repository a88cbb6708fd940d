"""What a study found: rows, tables, a picture and one self-contained page, written after every sweep."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from rich.console import Console
from rich.text import Text

from limoe.files import write_text
from limoe.reporting.findings import number
from limoe.reporting.plots import data_uri
from limoe.reporting.sheets import Sheet, write_sheet
from limoe.reporting.templates import template
from limoe.run_files import REPORT
from limoe.studies import side_tables
from limoe.studies.cost import Cost, known_costs
from limoe.studies.curves import AXES, MAX_POINTS, health_figures, metric_figures
from limoe.studies.metrics import common_metrics
from limoe.studies.overview import answer_plot
from limoe.studies.plan import Plan, differences
from limoe.studies.results import RUNS, Row, collect, read_csv, write_csv
from limoe.studies.study import Metric, Study
from limoe.studies.tables import Line, compare, result_sheet, sentence, write_tables
from limoe.studies.trial import State

PICTURE = "answer.svg"
MAIN = 5  # metrics of the main table, with curves and a column in the table of trials; others are in a table below
MARKDOWN = "report.md"
_TEMPLATES = {REPORT: "studies/study.html.j2", MARKDOWN: "studies/study.md.j2"}
_TRAINING = Metric("train/contrastive", "contrastive loss in training", higher=False)


@dataclass(frozen=True)
class Findings:
    """All that the page shows."""

    study: Study
    plan: Plan
    rows: list[Row]
    lines: list[Line]
    costs: list[Cost]

    @cached_property
    def differences(self) -> side_tables.Differences:
        return differences(self.plan.configs, baseline=self.study.baseline)

    @cached_property
    def chance(self) -> dict[str, float]:
        return {key: value for row in self.rows for key, value in row.chance.items()}

    @cached_property
    def picture(self) -> str:
        return answer_plot(self.study, self.rows, chance=self.chance)

    @cached_property
    def sheets(self) -> dict[str, Sheet]:
        """The tables beside the main one, by name."""
        found = (
            side_tables.routing_sheet(self.study, self.rows, self.plan.configs),
            side_tables.cost_sheet(self.costs),
            side_tables.trial_sheet(self.study.metrics[:MAIN], self.rows),
            side_tables.difference_sheet(self.differences),
            side_tables.published_sheet(self.study),
        )
        return {sheet.name: sheet for sheet in found}


def conclude(study: Study, plan: Plan, states: Sequence[State] | None, *, out: Path, console: Console) -> None:
    """The rows of a sweep, and their report; without `states` the report alone, of the rows that lie in `out` already.

    Raises:
        DataError: there are none.
    """
    if states is None:
        found = read_csv(out / RUNS)
        rows = [row for row in found if row.trial.variant in study.variants and row.trial.seed in study.seeds]
    else:
        rows = collect(plan, states)
        write_csv(rows, out / RUNS)
    study = study if study.metrics else replace(study, metrics=common_metrics(rows))
    write_report(study, plan, rows, out=out, console=console)


def write_report(study: Study, plan: Plan, rows: list[Row], *, out: Path, console: Console) -> None:
    """Write the page as HTML and Markdown, its picture, and every table as CSV and LaTeX; say what came out.

    The table of rows, which `conclude` writes, stays as it is.
    """
    found = Findings(study, plan, rows, compare(study, rows), known_costs(plan, rows))
    out.mkdir(parents=True, exist_ok=True)
    write_tables(study, found.lines, out)
    for sheet in found.sheets.values():
        write_sheet(sheet, out, suffixes=[".tex"] if sheet.name == "runs" else [".csv", ".tex"])
    write_text(out / PICTURE, found.picture)
    for name in _TEMPLATES:
        write_text(out / name, render(found, name))
    console.print(Text(sentence(study, found.lines)), soft_wrap=True)
    for name in (REPORT, RUNS):
        console.print(Text(f"{name.partition('.')[0]}: {(out / name).resolve()}"), soft_wrap=True)


def render(found: Findings, name: str) -> str:
    """The page as text: "report.html" or "report.md"."""
    is_html = name == REPORT
    study, rows = found.study, found.rows
    metrics = [metric for metric in study.metrics[:MAIN] if not metric.key.startswith("router/")]
    curves = metric_figures(study, rows, found.costs, metrics=[*metrics, _TRAINING]) if is_html else []
    return template(_TEMPLATES[name]).render(
        study=study,
        rows=rows,
        results=[result_sheet(study, found.lines, slice(0, MAIN)), result_sheet(study, found.lines, slice(MAIN, None))],
        sheets=found.sheets,
        answer=sentence(study, found.lines),
        picture=data_uri(found.picture) if is_html else PICTURE,
        finished=sum(row.state.finished for row in rows),
        successful=sum(row.successful for row in rows),
        chance=[(m.name, number(m.key, found.chance[m.key])) for m in study.metrics[:MAIN] if m.key in found.chance],
        axes=[axis for axis in AXES if any(figure.axis == axis for figure in curves)],
        curves=curves,
        max_points=MAX_POINTS,
        health=health_figures(study, rows) if is_html else [],
        uncosted=[variant for variant in study.variants if variant not in {cost.variant for cost in found.costs}],
        commits=sorted({row.commit[:12] + row.commit[40:] for row in rows if row.commit}),
        differences=found.differences,
    )
