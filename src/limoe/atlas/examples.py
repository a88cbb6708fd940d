"""A few pairs token by token: which expert computes each patch and each word."""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Bool, Int
from torch import Tensor

from limoe.atlas.collect import Tokens
from limoe.atlas.words import Speller
from limoe.data.text_tokenizer import TextTokenizer
from limoe.types import IMAGE, TEXT, RouterOutput


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
    by_modality = {m: {n: r for n, r in routing.items() if m in r.modalities} for m in (IMAGE, TEXT)}
    first = {m: {n: _first_choice(r, m, pairs=len(ids)) for n, r in by_modality[m].items()} for m in by_modality}
    return [
        {
            "picture": pair,
            "caption": tokenizer.decode(ids[pair][mask[pair]].tolist()),
            "tokens": [*map(spell, ids[pair][mask[pair]].tolist())],
            "image": {number: _rows(_named(experts[pair])) for number, experts in first[IMAGE].items()},
            "text": {number: _named(experts[pair][mask[pair]]) for number, experts in first[TEXT].items()},
        }
        for pair in range(min(count, len(ids)))
    ]


def _first_choice(routed: RouterOutput, modality: int, *, pairs: int) -> Int[Tensor, "B n"]:
    """-1 where it has no seat."""
    tokens = Tokens.of(routed, modality, sequences=pairs)
    return tokens.expert_index[..., 0].masked_fill(~tokens.seated[..., 0], -1)


def _named(experts: Int[Tensor, "n"]) -> list[int | None]:
    return [None if expert < 0 else expert for expert in experts.tolist()]


def _rows(values: Sequence[Any]) -> list[list[Any]]:
    side = round(len(values) ** 0.5)
    return [list(values[i : i + side]) for i in range(0, len(values), side)]
