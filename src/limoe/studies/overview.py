"""The answer of a study as one picture, for its page and for a README."""

from collections.abc import Mapping, Sequence

from limoe.reporting.findings import SHARE
from limoe.reporting.overview import Mark, Panel, overview_plot
from limoe.reporting.plots import IMAGE_COLOR, TEXT_COLOR
from limoe.studies.curves import variant_color
from limoe.studies.results import Row
from limoe.studies.study import Study
from limoe.studies.tables import values
from limoe.types import MODALITIES

_COLORS = {"image": IMAGE_COLOR, "text": TEXT_COLOR}


def answer_plot(study: Study, rows: Sequence[Row], *, chance: Mapping[str, float]) -> str:
    """An SVG: the first metric of every variant and, where any is sparse, the success rates of both modalities."""
    metric, variants = study.metrics[0], [study.baseline, *(n for n in study.variants if n != study.baseline)]
    marks = [
        Mark(number, list(values(rows, variant, metric.key).values()), variant_color(study, variant))
        for number, variant in enumerate(variants)
    ]
    reference = ("chance", chance[metric.key]) if metric.key in chance else None
    panels = [Panel(metric.name, variants, marks, percent=bool(SHARE.search(metric.key)), reference=reference)]
    rates = {variant: _rates(rows, variant) for variant in variants}
    sparse = [variant for variant in variants if rates[variant]]
    if sparse:
        marks = [
            Mark(number, found, _COLORS[modality], label=modality)
            for number, variant in enumerate(sparse)
            for modality, found in rates[variant].items()
        ]
        panels.append(Panel("success rate at the end", sparse, marks, percent=True))
    return overview_plot(panels)


def _rates(rows: Sequence[Row], variant: str) -> dict[str, list[float]]:
    found = {name: list(values(rows, variant, f"router/{name}/success_rate").values()) for name in MODALITIES}
    return {name: rates for name, rates in found.items() if rates}
