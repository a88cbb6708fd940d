"""Report of one run: a self-contained HTML page made from the files of its run folder."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from limoe.files import write_text
from limoe.reporting import figures
from limoe.reporting.findings import duration, headline, health_sheet, last_health, metric_sheet
from limoe.reporting.plots import MAX_POINTS, image_uri
from limoe.reporting.templates import template
from limoe.runs.folder import RunFolder, read_run
from limoe.runs.layout import REPORT, SAMPLES

_SIDE = 160  # pixels of the longer side of a test image
_FACTS = ("command", "overrides", "seed", "git_commit", "config_hash", "started")


def build(run_dir: Path, *, out: Path | None = None) -> Path:
    """Write the page, by default to `<run_dir>/report.html`, and return its path.

    Missing or broken parts are listed on the page. Raises `DataError` if `run_dir` is no run folder.
    """
    run = read_run(Path(run_dir))
    target = Path(out) if out is not None else run.path / REPORT
    write_text(target, render(run))
    return target


def render(run: RunFolder) -> str:
    """HTML of the page. Everything from the run is escaped, and the page's policy forbids scripts and web addresses."""
    others = {key: value for key, value in run.metrics.items() if key not in run.results}
    images = [_image(run, sample.image) for sample in run.samples]  # before rendering: it may add to run.problems
    return template("reporting/report.html.j2").render(
        run=run,
        name=run.path.resolve().name,
        status=str(run.record.get("status", "unknown")),
        headline=headline(run),
        results=metric_sheet(run.results, chance=run.chance),
        other_metrics=metric_sheet(others, chance=run.chance),
        curves=figures.learning_figures(run),
        max_points=MAX_POINTS,
        shares=figures.share_figures(run),
        health=health_sheet(last_health(run)),
        router_curves=figures.router_figures(run),
        aux=figures.aux_figures(run),
        cards=list(zip(run.samples, images, strict=True)),
        right=sum(sample.right for sample in run.samples),
        facts=list(_facts(run)),
    )


def _facts(run: RunFolder) -> Iterator[tuple[str, str]]:
    """Command, seed, versions and other facts of the run, as (name, value)."""
    for name in _FACTS:
        if (value := run.record.get(name)) is not None:
            yield name.replace("_", " "), " ".join(map(str, value)) if isinstance(value, list) else str(value)
    if took := duration(run.record.get("seconds")):
        yield "time", took
    versions: Any = run.record.get("versions")
    if versions:
        yield "versions", yaml.safe_dump(versions, default_flow_style=False).strip()


def _image(run: RunFolder, name: str) -> str | None:
    """Data URI of a sample, None if it cannot be read; encoded again, so that only pixels are on the page."""
    try:
        with Image.open(run.path / SAMPLES / name) as opened:
            image = opened.convert("RGB")
        image.thumbnail((_SIDE, _SIDE))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        run.problems.append(f"{SAMPLES}/{name}: {error}")
        return None
    return image_uri(image, kind="png", optimize=True)
