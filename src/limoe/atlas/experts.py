"""What every expert of every layer gets: numbers, patches, words, pairs token by token, and notes."""

from typing import Any

from jaxtyping import Bool, Int
from torch import Tensor, nn

from limoe.atlas.collect import SparseLayer, Tokens, in_rows
from limoe.atlas.patches import PatchGrid, top_patches
from limoe.atlas.words import Speller, WordCounts, by_share
from limoe.data.text_tokenizer import TextTokenizer
from limoe.routing.expert_choice import ExpertChoiceRouter
from limoe.routing.fixed import FixedRouter
from limoe.routing.soft import SoftRouter
from limoe.routing.statistics import OWN_MAJORITY, OWN_SHARE, QUANTILES, ModalityStatistics, modality_statistics
from limoe.routing.token_choice import SeatedRouter
from limoe.types import IMAGE, MODALITIES, TEXT, RouterOutput

_EXPERT_CHOICE = (
    "Experts choose tokens here (expert choice). Every token is shown at one expert: of those that took it, the one "
    "with the largest gate. Shares and loads count each token once, also one that nobody took; in the pictures that "
    "one has no colour. Which tokens are taken depends on the other tokens of a batch."
)
_SOFT = (
    "All experts work for all tokens here (soft routing). A token is shown at the expert that has the largest share of "
    "its output, and the gate is that share; nobody is ever without a seat. The knock-out silences all slots of an "
    "expert."
)
_FIXED = (
    "This router learns nothing: the expert follows from a token's place or from chance. Gates are 1, entropies 0, and "
    "the order of patches is the order of the pictures."
)


def layer_record(layer: SparseLayer, routed: RouterOutput) -> dict[str, Any]:
    """Statistics by modality, and per expert its mix, before any pictures and words."""
    statistics = {MODALITIES[m]: modality_statistics(routed, m) for m in routed.modalities}
    counts = {
        name: [round(s.assignments.item() * share) for share in s.load.tolist()] for name, s in statistics.items()
    }
    k = routed.expert_index.shape[1]
    return {
        "layer": layer.number,
        "name": layer.name,
        "router": type(layer.moe.router).__name__,
        "k": k,
        "statistics": {name: _plain(values) for name, values in statistics.items()},
        "experts": [_mix(expert, counts) for expert in range(routed.num_experts)],
        "notes": notes(layer.moe.router, k=k),
    }


def _mix(expert: int, counts: dict[str, list[int]]) -> dict[str, Any]:
    """`of_expert`: whose tokens it gets; `of_modality`: what share of a modality chose it; before drops.

    A text expert follows the rule of `own_experts`; in a tower of texts alone that would say nothing.
    """
    mine = {name: assignments[expert] for name, assignments in counts.items()}
    everybody = sum(mine.values())
    of_expert = {name: count / everybody if everybody else None for name, count in mine.items()}
    of_modality = {name: count / max(sum(counts[name]), 1) for name, count in mine.items()}
    text = of_expert.get("text") or 0.0
    share = of_modality.get("text", 0.0)
    return {
        "expert": expert,
        "share_of_all": everybody / max(sum(map(sum, counts.values())), 1),
        "of_expert": of_expert,
        "of_modality": of_modality,
        "is_text_expert": len(mine) > 1 and text > OWN_MAJORITY and share > OWN_SHARE,
    }


def _plain(values: ModalityStatistics) -> dict[str, Any]:
    """As lists and numbers; the quantiles of the top gate by name."""
    found = {name: value.tolist() for name, value in values._asdict().items()}
    return found | {"top_gate": {f"{q:.0%}": value for q, value in zip(QUANTILES, found["top_gate"], strict=True)}}


def add_patches(record: dict[str, Any], routed: RouterOutput, grid: PatchGrid, *, pairs: int, count: int) -> None:
    """To each expert, `patches`: the `count` with the largest gates."""
    tokens = Tokens.of(routed, IMAGE, sequences=pairs)
    for expert in record["experts"]:
        expert["patches"] = top_patches(tokens.gate_of(expert["expert"]), grid, count=count)


def add_words(
    record: dict[str, Any], routed: RouterOutput, words: WordCounts, *, pairs: int, count: int, minimum: int
) -> None:
    """To each expert `words_by_count` and `words_by_share`, `count` of each, of tokens with `minimum` occurrences.

    By share only those of which the expert gets more than of all text.
    """
    tokens = Tokens.of(routed, TEXT, sequences=pairs)
    for expert in record["experts"]:
        seen = [word for word in words.at(tokens.at(expert["expert"])) if word["occurrences"] >= minimum]
        expert["words_by_share"] = by_share(seen, above=expert["of_modality"]["text"])[:count]
        expert["words_by_count"] = seen[:count]


def notes(router: nn.Module, *, k: int) -> list[str]:
    """Sentences for the page; none for a router that lets every token choose its one expert freely."""
    kinds = ((ExpertChoiceRouter, _EXPERT_CHOICE), (SoftRouter, _SOFT), (FixedRouter, _FIXED))
    found = [sentence for kind, sentence in kinds if isinstance(router, kind)]
    if k > 1:
        choices = "Patches and words stand at each of them; coloured pictures show the first choice."
        found.append(f"A token has {k} experts. {choices}")
    if isinstance(router, SeatedRouter) and router.eval_capacity_factor is not None:
        limit = f"seats in evaluation too (factor {router.eval_capacity_factor})"
        found.append(f"This run limits {limit}: tokens without a seat are at no expert.")
    return found


def examples(
    routing: dict[int, RouterOutput],
    *,
    ids: Int[Tensor, "B n_t"],
    mask: Bool[Tensor, "B n_t"],
    tokenizer: TextTokenizer,
    count: int,
) -> list[dict[str, Any]]:
    """Of the first `count` pairs: caption, real tokens, and by layer the expert of each patch (rows of the grid) and of
    each real token. The first choice where a token has several, None where no expert computes it.
    """
    spell = Speller(tokenizer)
    found: list[dict[str, Any]] = []
    for pair, (own, real) in enumerate(zip(ids[:count], mask[:count], strict=True)):
        tokens = own[real].tolist()
        spelled = {"caption": tokenizer.decode(tokens), "tokens": [*map(spell, tokens)]}
        found.append({"picture": pair, **spelled, "image": {}, "text": {}})
    for layer, routed in routing.items():
        for modality in routed.modalities:
            tokens = Tokens.of(routed, modality, sequences=len(ids))
            first = tokens.expert_index[..., 0].masked_fill(~tokens.seated[..., 0], -1)
            for example in found:
                pair = example["picture"]
                own = first[pair] if modality == IMAGE else first[pair][mask[pair]]
                experts = [None if expert < 0 else expert for expert in own.tolist()]
                example[MODALITIES[modality]][layer] = in_rows(experts) if modality == IMAGE else experts
    return found
