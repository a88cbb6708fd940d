"""The end of a run in the terminal: final numbers beside chance, router health, and where everything lies."""

from pathlib import Path

from rich.console import Console
from rich.text import Text

from limoe.reporting.findings import headline, health_sheet, last_health, metric_sheet
from limoe.reporting.run_folder import read_run
from limoe.reporting.sheets import as_rich
from limoe.run_files import REPORT


def print_summary(run_dir: Path, *, console: Console | None = None) -> None:
    """Print the tables of one run folder. Raises `DataError` if it is no run folder."""
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
