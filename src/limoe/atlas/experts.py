"""What every expert of every layer gets, in numbers."""

import dataclasses
from typing import Any

from limoe.atlas.collect import SparseLayer, Tokens
from limoe.atlas.patches import PatchGrid, top_patches
from limoe.atlas.words import Word, WordCounts, by_share
from limoe.routing.statistics import OWN_MAJORITY, OWN_SHARE, QUANTILES, ModalityStatistics, modality_statistics
from limoe.types import IMAGE, MODALITIES, TEXT, RouterOutput


def layer_record(layer: SparseLayer, routed: RouterOutput) -> dict[str, Any]:
    """Statistics by modality, and per expert its mix, before any pictures and words."""
    statistics = {MODALITIES[m]: modality_statistics(routed, m) for m in routed.modalities}
    counts = {
        name: [round(s.assignments.item() * share) for share in s.load.tolist()] for name, s in statistics.items()
    }
    total = sum(map(sum, counts.values()))
    return {
        "layer": layer.number,
        "name": layer.name,
        "router": type(layer.moe.router).__name__,
        "k": routed.expert_index.shape[1],
        "statistics": {name: _plain(values) for name, values in statistics.items()},
        "experts": [
            _mix(expert, {name: counts[name][expert] for name in counts}, counts, total=total)
            for expert in range(routed.num_experts)
        ],
    }


def _mix(expert: int, mine: dict[str, int], counts: dict[str, list[int]], *, total: int) -> dict[str, Any]:
    """`of_expert`: whose tokens it gets; `of_modality`: what share of a modality chose it; before drops."""
    everybody = sum(mine.values())
    of_modality = {name: mine[name] / max(sum(counts[name]), 1) for name in mine}
    return {
        "expert": expert,
        "share_of_all": everybody / max(total, 1),
        "of_expert": {name: count / everybody if everybody else None for name, count in mine.items()},
        "of_modality": of_modality,
        "is_text_expert": _is_text_expert(mine, share=of_modality.get("text", 0.0)),
    }


def _is_text_expert(mine: dict[str, int], *, share: float) -> bool:
    """The rule of `own_experts`; in a tower of texts alone it would say nothing."""
    return len(mine) > 1 and mine["text"] > OWN_MAJORITY * sum(mine.values()) and share > OWN_SHARE


def _plain(values: ModalityStatistics) -> dict[str, Any]:
    """As lists and numbers; the quantiles of the top gate by name."""
    found = {name: value.tolist() for name, value in values._asdict().items()}
    return found | {"top_gate": {f"{q:.0%}": value for q, value in zip(QUANTILES, found["top_gate"], strict=True)}}


def add_patches(record: dict[str, Any], routed: RouterOutput, grid: PatchGrid, *, pairs: int, count: int) -> None:
    """To each expert, `patches`: the `count` with the largest gates."""
    tokens = Tokens.of(routed, IMAGE, sequences=pairs)
    for expert in record["experts"]:
        found = top_patches(tokens.gate_of(expert["expert"]), grid, count=count)
        expert["patches"] = [patch._asdict() for patch in found]


def add_words(
    record: dict[str, Any], routed: RouterOutput, words: WordCounts, *, pairs: int, count: int, minimum: int
) -> None:
    """To each expert `words_by_count` and `words_by_share`, `count` of each, of tokens with `minimum` occurrences.

    By share only those of which the expert gets more than of all text.
    """
    tokens = Tokens.of(routed, TEXT, sequences=pairs)
    for expert in record["experts"]:
        seen = [w for w in words.at(tokens.at(expert["expert"])) if w.occurrences >= minimum]
        typical = by_share(seen, above=expert["of_modality"]["text"])
        expert["words_by_share"] = [_word(word) for word in typical[:count]]
        expert["words_by_count"] = [_word(word) for word in seen[:count]]


def _word(word: Word) -> dict[str, Any]:
    return {**dataclasses.asdict(word), "share": word.share}
