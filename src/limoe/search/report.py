"""What a search found: every point as a row, the best one as overrides, and one self-contained page."""

import csv
import io
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from rich.console import Console
from rich.text import Text

from limoe import reporting
from limoe.files import write_text
from limoe.reporting.findings import duration
from limoe.reporting.seeds import estimate, paired_difference, verdict
from limoe.search.dry_run import base_cost
from limoe.search.figures import history, importance, slices
from limoe.search.points import Point, best_of
from limoe.search.spec import Search
from limoe.search.store import Store
from limoe.studies.cost import Cost
from limoe.studies.plan import Plan
from limoe.studies.tables import with_interval

_TEMPLATES = {"report.html": "search.html.j2", "report.md": "search.md.j2"}


@dataclass(frozen=True)
class Findings:
    """All that the page shows. `importances` are shares by key, largest first; empty where they cannot be told."""

    search: Search
    points: list[Point]
    best: Point | None
    importances: dict[str, float]
    cost: Cost

    @property
    def valued(self) -> list[Point]:
        return [point for point in self.points if point.value is not None]


def conclude(search: Search, base: Plan, store: Store, *, root: Path, out: Path, console: Console) -> Point | None:
    """Write `trials.csv`, `best.yaml`, `report.html` and `report.md` to `out` and say what came out: the best point."""
    points = store.points()
    best = best_of(search, points)
    found = Findings(search, points, best, store.importances(), base_cost(base, points, root=root))
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "trials.csv", table(search, points))
    if best is None:
        (out / "best.yaml").unlink(missing_ok=True)
    else:
        write_text(out / "best.yaml", best_yaml(search, best, of=len(found.valued)))
    for name in _TEMPLATES:
        write_text(out / name, render(found, name))
    console.print(Text(sentence(found)), soft_wrap=True)
    for name in ("report.html", "trials.csv", *(["best.yaml"] if best else [])):
        console.print(Text(f"{name.partition('.')[0]}: {(out / name).resolve()}"), soft_wrap=True)
    return best


def table(search: Search, points: Sequence[Point]) -> str:
    """One row per point, as CSV."""
    seeds, text = search.study.seeds, io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    by_seed = [f"{name}_seed_{seed}" for name in ("value", "hash") for seed in seeds]
    writer.writerow(["number", "status", "value", "seconds", *search.space, *by_seed, "error"])
    for point in points:
        words = [point.words.get(key, "") for key in search.space]
        values = [_cell(point.outcome.values.get(seed)) for seed in seeds]
        hashes = [point.hashes.get(seed, "") for seed in seeds]
        fixed = [point.number, point.status, _cell(point.value), f"{point.outcome.seconds:.1f}"]
        writer.writerow([*fixed, *words, *values, *hashes, point.outcome.error])
    return text.getvalue()


def best_yaml(search: Search, best: Point, *, of: int) -> str:
    """The best point as overrides to paste into a command or a study."""
    header = f"""\
# Point {best.number}, the best of {of}: {search.metric.name} {_interval(search, best)}. A maximum flatters: before you
# believe the number, train the point with other seeds:
# {command(search, best)}
"""
    content = {"base": list(search.study.base), "overrides": best.overrides}
    return header + yaml.safe_dump(content, sort_keys=False, width=120, allow_unicode=True)


def command(search: Search, best: Point) -> str:
    """Trains the best point with seeds that the search has not used."""
    first = max(search.study.seeds) + 1
    seeds = ",".join(str(first + i) for i in range(3))
    return shlex.join(["limoe", "train", "-m", *search.study.base, *best.overrides, f"seed={seeds}"])


def sentence(found: Findings) -> str:
    """What came out."""
    search, best, valued = found.search, found.best, len(found.valued)
    if best is None:
        ended = sum(point.ended for point in found.points)
        return f"No answer: none of {ended} points has a value of {search.metric.name}."
    said = f"{search.metric.name} {_interval(search, best)} at {', '.join(best.overrides)}"
    said += f" (point {best.number}, the {'highest' if search.metric.higher else 'lowest'} of {valued})."
    near = [point for point in found.valued if point is not best and _is_near(search, point, best)]
    if len(search.study.seeds) > 1 and valued > 1:
        said += f" {len(near)} of the other {valued - 1} points are within noise of it."
    return said


def render(found: Findings, name: str) -> str:
    """The page as text: "report.html" or "report.md"."""
    is_html, search = name.endswith(".html"), found.search
    environment = Environment(
        loader=FileSystemLoader([Path(__file__).parent, Path(reporting.__file__).parent]),
        autoescape=is_html,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pictures = [history(search, found.points)] if is_html and found.valued else []
    return environment.get_template(_TEMPLATES[name]).render(
        search=search,
        points=found.points,
        best=found.best,
        valued=len(found.valued),
        ended=sum(point.ended for point in found.points),
        answer=sentence(found),
        command="" if found.best is None else command(search, found.best),
        history=pictures + ([importance(found.importances)] if pictures and found.importances else []),
        slices=slices(search, found.points) if pictures else [],
        importances=found.importances,
        cost=found.cost,
        interval=lambda point: _interval(search, point),
        duration=duration,
    )


def _interval(search: Search, point: Point) -> str:
    values = list(point.outcome.values.values())
    return "" if point.value is None else with_interval(search.metric.key, estimate(values))


def _is_near(search: Search, point: Point, best: Point) -> bool:
    difference = paired_difference(point.outcome.values, best.outcome.values)
    return verdict(difference, higher=search.metric.higher) == "within noise"


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
