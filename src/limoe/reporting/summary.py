"""The end of a run in the terminal: final numbers beside chance, router health, and where everything lies."""

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from limoe.reporting.findings import HealthRow, MetricRow, headline, health_rows, last_health, metric_rows
from limoe.reporting.run_folder import read_run


def print_metrics(
    metrics: Mapping[str, float], chance: Mapping[str, float], *, title: str, console: Console | None = None
) -> None:
    """Print values beside chance, both under the logged keys."""
    (console or Console()).print(_results(metric_rows(metrics, chance=chance), title=title))


def print_summary(run_dir: Path, *, console: Console | None = None) -> None:
    """Print the tables of one run folder. Raises `DataError` if it is no run folder."""
    console = console or Console()
    run = read_run(Path(run_dir))
    console.print()
    console.print(Text(headline(run), style="bold"))
    if run.results:
        print_metrics(run.results, run.chance, title="Results", console=console)
    if health := health_rows(last_health(run)):
        console.print(_routing(health))
    for alarm in run.alarms.values():
        console.print(Text(f"collapse alarm: {alarm}", style="yellow"), soft_wrap=True)
    report = run.path / "report.html"
    for name, path in (("report", report), ("run folder", run.path)):
        if path.exists():
            console.print(Text(f"{name}: {path.resolve()}"), soft_wrap=True)


def _results(rows: list[MetricRow], *, title: str) -> Table:
    table = Table("metric", title=Text(title), title_justify="left")
    for column in ("final", "chance", "times chance"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(Text(row.key), row.value, row.chance, row.factor)
    return table


def _routing(rows: list[HealthRow]) -> Table:
    table = Table(title="Routing at the last logged step (entropies in nats)", title_justify="left")
    columns = ("success rate", "load CV", "local entropy", "global entropy", "experts used", "dead experts")
    for column in ("layer", "modality", *columns):
        table.add_column(column, justify="left" if column == "modality" else "right")
    for row in rows:
        table.add_row(
            str(row.layer),
            row.modality,
            row.success_rate,
            row.load_cv,
            row.local_entropy,
            row.global_entropy,
            row.effective_experts,
            str(row.dead_experts),
        )
    return table
