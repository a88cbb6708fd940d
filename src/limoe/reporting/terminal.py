"""Terminal output of finished runs and evaluations."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from limoe.reporting.findings import factor, headline, health_sheet, last_health, metric_sheet, number
from limoe.reporting.sheets import as_rich
from limoe.runs.folder import read_run
from limoe.runs.layout import REPORT


def print_summary(run_dir: Path, *, console: Console | None = None) -> None:
    """Print final metrics with chance, routing statistics and paths. Raises `DataError` if it is no run folder."""
    console = console or Console()
    run = read_run(Path(run_dir))
    console.print()
    console.print(Text(headline(run), style="bold"))
    if run.results:
        console.print(as_rich(metric_sheet(run.results, chance=run.chance), title="Results"))
    if health := last_health(run):
        title = "Routing at the last logged step (entropies in nats)"
        console.print(as_rich(health_sheet(health), title=title))
    for alarm in run.alarms.values():
        console.print(Text(f"collapse alarm: {alarm}", style="yellow"), soft_wrap=True)
    for name, path in (("report", run.path / REPORT), ("run folder", run.path)):
        if path.exists():
            console.print(Text(f"{name}: {path.resolve()}"), soft_wrap=True)


def print_evaluations(records: Sequence[Mapping[str, Any]], *, title: str, console: Console | None = None) -> None:
    """Print records of `evaluation.record.evaluation_record`, one block per task, at most 80 columns wide."""
    table = Table("task and metric")
    for column in ("value", "95 % interval", "chance", "times", "n"):
        table.add_column(column, justify="right", no_wrap=True)
    for record in records:
        table.add_section()
        table.add_row(Text(record["task"], style="bold"))
        for key, metric in record["metrics"].items():
            value, low, high, chance = (number(key, metric[name]) for name in ("value", "low", "high", "chance"))
            times = factor(metric["value"], metric["chance"])
            table.add_row(f"  {key}", value, f"{low} to {high}", chance, times, f"{metric['n']:,}")
    console = console or Console()
    console.print(Text(title, style="bold"), soft_wrap=True)
    console.print(table)
