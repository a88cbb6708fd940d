"""Model card (README.md) of an exported model."""

import math
from collections.abc import Mapping
from typing import Any

from limoe.config.trees import leaves
from limoe.reporting.findings import metric_sheet
from limoe.reporting.templates import template
from limoe.runs.folder import numbers

_RESULTS = "val/"
_SCALARS = (str, int, float, bool)


def model_card(
    config: Mapping[str, Any], *, run: Mapping[str, Any], record: Mapping[str, Any], name: str, measured: bool = True
) -> str:
    """The model card as Markdown.

    Args:
        config: content of the export's config.json.
        run: the resolved config of the run.
        record: run.json, empty where there is none.
        name: name of the export's folder.
        measured: True if the results were measured with the exported kind of weights.
    """
    found = numbers(record.get("metrics"))
    metrics = {key: x for key, x in found.items() if key.startswith(_RESULTS) and math.isfinite(x)}
    chance = {key: x for key, x in numbers(record.get("chance")).items() if key in metrics}
    sizes = [(key, value) for key, value in leaves(config["model"]) if _is_plain(value)]
    sizes = [(key, value) for key, value in sizes if not key.rpartition(".")[2].startswith("_")]  # Hydra's own keys
    return template("reporting/model_card.md.j2").render(
        name=name,
        config=config,
        model=config["model"],
        sparse=any(key.endswith("moe_layers") and value for key, value in sizes),
        sizes=sizes,
        data=_source(run["data"]["module"].get("train")),
        run=run,
        record=record,
        results=metric_sheet(metrics, chance=chance),
        measured=measured,
        complete=config["source"]["step"] == run["trainer"]["max_steps"],
    )


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, _SCALARS) or (isinstance(value, list) and all(map(_is_plain, value)))


def _source(node: Any) -> str:
    """Target and settings of the data source, without paths."""
    if not isinstance(node, Mapping):
        return "not recorded"
    settings = [f"{key}={value}" for key, value in node.items() if _is_plain(value) and not str(value).count("/")]
    return f"{node.get('_target_')} ({', '.join(s for s in settings if not s.startswith('_'))})"
