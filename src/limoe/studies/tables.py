"""The main table of a study: variants compared with the baseline, and one sentence."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from limoe.reporting.findings import SHARE
from limoe.reporting.seeds import Estimate, estimate, paired_difference, verdict
from limoe.reporting.sheets import Entry, Sheet, sheet
from limoe.studies.results import Row
from limoe.studies.study import Metric, Study

_NUMBERS = ("seeds", "mean", "half_95", "difference", "difference_half_95")
_CSV = ("variant", "metric", *_NUMBERS, "verdict", "finished", "successful", "trials")
_NO_RESULT, _NO_BASE = "no result", "the baseline has no result"
_CLAUSES = {name: f"{{is}} {name}" for name in ("better", "worse", "higher", "lower", "within noise")} | {
    _NO_RESULT: "{has} no result"
}


@dataclass(frozen=True)
class Cell:
    """One metric of one variant: mean over seeds with 95 % interval, and the paired difference to the baseline."""

    value: Estimate | None
    difference: Estimate | None
    verdict: str


@dataclass(frozen=True)
class VariantResult:
    """One variant: cells by metric, and the numbers of finished, successful (`Row.successful`) and all trials."""

    variant: str
    cells: tuple[Cell, ...]
    finished: int
    successful: int
    trials: int


def compare(study: Study, rows: Sequence[Row]) -> list[VariantResult]:
    """Results of all variants, the baseline first."""
    order = [study.baseline, *(name for name in study.variants if name != study.baseline)]
    return [_line(name, study, rows) for name in order]


def values(rows: Sequence[Row], variant: str, key: str) -> dict[int, float]:
    """Finite values of a metric by seed; of several trials with one seed the last one's."""
    found = [(row.trial.seed, row.metrics.get(key, math.nan)) for row in rows if row.trial.variant == variant]
    return {seed: value for seed, value in found if math.isfinite(value)}


def with_interval(key: str, value: Estimate | None, *, signed: bool = False) -> str:
    """`32.1 ± 0.8 %`, `2.31 ± 0.04`; both values of two seeds, `32.1, 33.0 %`; the value of one seed.

    `signed` is for differences: those of shares are percentage points, `+1.2 ± 0.8 pp`.
    """
    if value is None:
        return "–"
    scale, unit = (100.0, " pp" if signed else " %") if SHARE.search(key) else (1.0, "")
    digits = _digits(value, scale)
    sign = "+" if signed else ""
    if value.n == 2:
        return ", ".join(f"{own * scale:{sign}z.{digits}f}" for own in value.values) + unit
    text = f"{value.mean * scale:{sign}z.{digits}f}"
    return f"{text} ± {value.half * scale:.{digits}f}{unit}" if math.isfinite(value.half) else f"{text}{unit}"


def share(part: int, whole: int) -> Entry:
    """`2 / 3 (67 %)`"""
    return Entry(f"{part} / {whole} ({part / whole:.0%})".replace("%", " %"), part / whole) if whole else Entry("–")


def sentence(study: Study, lines: Sequence[VariantResult]) -> str:
    """Summary of the first metric: the baseline's value, then the other variants of the overview by verdict."""
    metric = study.metrics[0]
    lines = [line for line in lines if line.variant in {study.baseline, *study.shown}]
    base = lines[0].cells[0].value
    if base is None:
        return f"No answer: no trial of {study.baseline} has a value of {metric.name}."
    value = f"{study.baseline} ({with_interval(metric.key, base)})"
    if len(lines) == 1:
        return f"{metric.name}: {value}, {_seeds(base.n)}."
    verdicts = dict.fromkeys([*_CLAUSES, *(line.cells[0].verdict for line in lines[1:])])
    clauses = [part for verdict in verdicts if (part := _clause(verdict, metric, lines))]
    seeds = {cell.value.n for line in lines for cell in line.cells[:1] if cell.value}
    known = _seeds(min(seeds)) if len(seeds) == 1 else f"{min(seeds)} to {max(seeds)} seeds"
    shown = "95 % intervals" if max(seeds) > 2 else "single values"
    return f"{metric.name}, against {value}: {'; '.join(clauses)} ({known}, {shown}, differences paired by seed)."


def number_sheet(study: Study, lines: Sequence[VariantResult]) -> Sheet:
    """Numbers for other programs: one row per variant and metric."""
    rows: list[list[Entry | str]] = []
    for line in lines:
        counts = [Entry("", count) for count in (line.finished, line.successful, line.trials)]
        for metric, cell in zip(study.metrics, line.cells, strict=True):
            seeds = Entry("", cell.value.n if cell.value else 0)
            known = [seeds, *_pair(cell.value), *_pair(cell.difference)]
            rows.append([line.variant, metric.key, *known, cell.verdict, *counts])
    return sheet("table", _CSV, rows)


def result_sheet(study: Study, lines: Sequence[VariantResult], part: slice = slice(None)) -> Sheet:
    """Table of the metrics in `part`: means with intervals, and below them the differences to the baseline.

    The table with the first metric has the shares of finished and of successful trials too.
    """
    metrics = study.metrics[part]
    columns = [metric.name + (" (lower is better)" if metric.higher is False else "") for metric in metrics]
    rows: list[list[Entry | str]] = []
    for line in lines:
        rows.append([line.variant])
        for metric, cell in zip(metrics, line.cells[part], strict=True):
            text = with_interval(metric.key, cell.value)
            if cell.difference is not None:
                text += f"\n({with_interval(metric.key, cell.difference, signed=True)},\n{cell.verdict})"
            rows[-1].append(Entry(text, cell.value.mean if cell.value else None))
        if part.start in (None, 0):
            rows[-1] += [share(line.finished, line.trials), share(line.successful, line.trials)]
    counts = ["finished", "successful"] if part.start in (None, 0) else []
    return sheet("table", ["variant", *columns, *counts], rows if metrics else [])


def _line(variant: str, study: Study, rows: Sequence[Row]) -> VariantResult:
    own = [row for row in rows if row.trial.variant == variant]
    return VariantResult(
        variant,
        tuple(_cell(variant, metric, study, rows) for metric in study.metrics),
        finished=sum(row.state.finished for row in own),
        successful=sum(row.successful for row in own),
        trials=len(own),
    )


def _cell(variant: str, metric: Metric, study: Study, rows: Sequence[Row]) -> Cell:
    own, base = (values(rows, name, metric.key) for name in (variant, study.baseline))
    if not own:
        return Cell(None, None, _NO_RESULT)
    value = estimate(list(own.values()))
    if variant == study.baseline:
        return Cell(value, None, "")
    difference = paired_difference(own, base)
    return Cell(value, difference, verdict(difference, higher=metric.higher) if base else _NO_BASE)


def _clause(verdict: str, metric: Metric, lines: Sequence[VariantResult]) -> str:
    """Clause such as `b (+1.0 ± 0.2 pp) and c (+2.0 ± 0.3 pp) are better`; empty if no variant has this verdict."""
    pairs = [(line.variant, line.cells[0].difference) for line in lines[1:] if line.cells[0].verdict == verdict]
    names = [f"{name} ({with_interval(metric.key, by, signed=True)})" if by else name for name, by in pairs]
    if not names:
        return ""
    joined = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
    words = {"is": "is", "has": "has"} if len(names) == 1 else {"is": "are", "has": "have"}
    return f"{joined} {_CLAUSES.get(verdict, '{has} ' + verdict).format(**words)}"


def _seeds(n: int) -> str:
    return f"{n} seed{'s' if n != 1 else ''}"


def _digits(value: Estimate, scale: float) -> int:
    """Decimals that show two digits of the interval, or four of the value."""
    known = math.isfinite(value.half) and value.half > 1e-12  # smaller widths are rounding errors
    size = value.half * scale if known else abs(value.mean * scale) / 100
    return min(5, max(1, 1 - math.floor(math.log10(size)))) if size > 0 else 2


def _pair(value: Estimate | None) -> list[Entry]:
    numbers = (None, None) if value is None else (value.mean, value.half if math.isfinite(value.half) else None)
    return [Entry("", number) for number in numbers]
