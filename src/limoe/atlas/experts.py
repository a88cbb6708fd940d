"""Load of every expert of every layer: numbers, patches, words, examples."""

from typing import Any

from jaxtyping import Bool, Int
from torch import Tensor

from limoe.atlas.collect import SparseLayer, Tokens, in_rows
from limoe.atlas.patches import PatchGrid, top_patches
from limoe.atlas.words import Speller, WordCounts
from limoe.data.text.text_tokenizer import TextTokenizer
from limoe.routing.statistics import OWN_MAJORITY, OWN_SHARE, QUANTILES, ModalityStatistics, modality_statistics
from limoe.types import IMAGE, MODALITIES, TEXT, RouterOutput


def layer_record(layer: SparseLayer, routed: RouterOutput) -> dict[str, Any]:
    """Statistics by modality and the modality mix of each expert, without patches and words."""
    statistics = {MODALITIES[m]: modality_statistics(routed, m) for m in routed.modalities}
    counts = {
        name: [round(s.assignments.item() * share) for share in s.load.tolist()] for name, s in statistics.items()
    }
    return {
        "layer": layer.number,
        "name": layer.name,
        "router": type(layer.router).__name__,
        "k": routed.expert_index.shape[1],
        "statistics": {name: _plain(values) for name, values in statistics.items()},
        "experts": [_mix(expert, counts) for expert in range(routed.num_experts)],
        "notes": layer.router.notes(),
    }


def _mix(expert: int, counts: dict[str, list[int]]) -> dict[str, Any]:
    """Modality mix before drops. `of_expert`: shares of its assignments; `of_modality`: share of each that chose it.

    A text expert follows the rule of `own_experts`; a tower of one modality has none.
    """
    mine = {name: assignments[expert] for name, assignments in counts.items()}
    total = sum(mine.values())
    of_expert = {name: count / total if total else None for name, count in mine.items()}
    of_modality = {name: count / max(sum(counts[name]), 1) for name, count in mine.items()}
    text = of_expert.get("text") or 0.0
    share = of_modality.get("text", 0.0)
    return {
        "expert": expert,
        "share_of_all": total / max(sum(map(sum, counts.values())), 1),
        "of_expert": of_expert,
        "of_modality": of_modality,
        "is_text_expert": len(mine) > 1 and text > OWN_MAJORITY and share > OWN_SHARE,
    }


def _plain(values: ModalityStatistics) -> dict[str, Any]:
    """Statistics as lists and numbers; the quantiles of the top gate by name."""
    found = {name: value.tolist() for name, value in values._asdict().items()}
    return found | {"top_gate": {f"{q:.0%}": value for q, value in zip(QUANTILES, found["top_gate"], strict=True)}}


def add_patches(record: dict[str, Any], routed: RouterOutput, grid: PatchGrid, *, pairs: int, count: int) -> None:
    """Add `patches` to each expert: the `count` with the largest gates."""
    tokens = Tokens.of(routed, IMAGE, sequences=pairs)
    for expert in record["experts"]:
        expert["patches"] = top_patches(tokens.gate_of(expert["expert"]), grid, count=count)


def add_words(
    record: dict[str, Any], routed: RouterOutput, words: WordCounts, *, pairs: int, count: int, minimum: int
) -> None:
    """Add `words_by_count` and `words_by_share` to each expert: `count` tokens each, with `minimum` occurrences.

    `words_by_share` lists those that chose the expert more often than text as a whole.
    """
    tokens = Tokens.of(routed, TEXT, sequences=pairs)
    for expert in record["experts"]:
        seen = [word for word in words.at(tokens.at(expert["expert"])) if word["occurrences"] >= minimum]
        typical = [word for word in seen if word["share"] > expert["of_modality"]["text"]]
        typical.sort(key=lambda word: (-word["share"], -word["count"]))
        expert["words_by_share"] = typical[:count]
        expert["words_by_count"] = seen[:count]


def examples(
    routing: dict[int, RouterOutput],
    *,
    ids: Int[Tensor, "B n_t"],
    mask: Bool[Tensor, "B n_t"],
    tokenizer: TextTokenizer,
    count: int,
) -> list[dict[str, Any]]:
    """Routing of the first `count` pairs: caption, real tokens, and by layer the expert of each patch (rows of the
    grid) and of each real token: its first choice, or None if that expert does not compute it.
    """
    spell = Speller(tokenizer)
    found: list[dict[str, Any]] = []
    for pair, (own, real) in enumerate(zip(ids[:count], mask[:count], strict=True)):
        tokens = own[real].tolist()
        spelled = {"caption": tokenizer.decode(tokens), "tokens": [*map(spell, tokens)]}
        found.append({"pair": pair, **spelled, "image": {}, "text": {}})
    for layer, routed in routing.items():
        for modality in routed.modalities:
            tokens = Tokens.of(routed, modality, sequences=len(ids))
            first = tokens.expert_index[..., 0].masked_fill(~tokens.kept[..., 0], -1)
            for example in found:
                pair = example["pair"]
                own = first[pair] if modality == IMAGE else first[pair][mask[pair]]
                experts = [None if expert < 0 else expert for expert in own.tolist()]
                example[MODALITIES[modality]][layer] = in_rows(experts) if modality == IMAGE else experts
    return found
