"""Terminal output of finished runs, evaluations and `limoe info`, at most 80 columns wide."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.markdown import Markdown
from rich.table import Table
from rich.text import Text

from limoe.reporting.findings import factor, headline, health_sheet, last_health, metric_sheet, number
from limoe.reporting.sheets import as_rich
from limoe.reporting.templates import template
from limoe.runs.folder import read_run
from limoe.runs.layout import REPORT

_THOUSANDS = ("", "k", "M", "G", "T", "P", "E")
_OF_PARAMETERS = ("", "k", "M", "B", "T")


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


def print_evaluations(records: Sequence[Mapping[str, Any]], *, title: str) -> None:
    """Print records of `evaluation.tasks.evaluation_record`, one block per task, at most 80 columns wide."""
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
    console = Console()
    console.print(Text(title, style="bold"), soft_wrap=True)
    console.print(table)


def cost_tables(info: dict[str, Any], *, title: str) -> RenderableType:
    """All entries of `info` as small tables."""
    baselines = {"dense baseline": info.get("dense_baseline"), "two-tower baseline": info.get("two_tower_baseline")}
    slots = info["capacity"]
    text = template("reporting/costs.md.j2", parameters=parameters, number=prefixed, gib=gib).render(
        title=title,
        info=info,
        baselines={name: baseline for name, baseline in baselines.items() if baseline is not None},
        slots=slots.get("towers", {slots.get("tokens"): slots}),
    )
    return Markdown(text)


def prefixed(value: float, *, units: tuple[str, ...] = _THOUSANDS) -> str:
    """Four significant digits with a unit prefix: 353.7 G, 20.19 G, 72."""
    power, scaled = 0, float(value)
    while scaled >= 999.95 and power < len(units) - 1:
        power, scaled = power + 1, scaled / 1000
    digits = 0 if power == 0 and scaled == round(scaled) else 4 - len(str(int(scaled)))
    return f"{scaled:.{digits}f} {units[power]}".rstrip()


def parameters(value: float) -> str:
    """A number as `prefixed` writes it, with B for 10^9."""
    return prefixed(value, units=_OF_PARAMETERS)


def gib(value: float | None) -> str:
    """Bytes in GiB, or in MiB below a tenth of one."""
    if value is None:
        return "unknown"
    return f"{value / 2**30:.2f} GiB" if value >= 0.1 * 2**30 else f"{value / 2**20:.2f} MiB"
