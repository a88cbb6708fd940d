"""Readable spelling of tokens, and how often each goes to which expert."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from limoe.data.text.text_tokenizer import TextTokenizer

_MARKS = ("Ġ", "▁")  # byte-level BPE and SentencePiece: prefix of a token that begins a word ...
_PIECE = "##"  # ... WordPiece: prefix of one that does not
_SPACE, _CONTINUES, _BROKEN = "␣", "‑", "�"


class Speller:
    """Readable spelling of a token id: `cat` at the start of a word, `‑ty` inside one, `<eos>` for special tokens."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer
        vocabulary = tokenizer.tokenizer.get_vocab()
        self._marks_beginnings = any(len(token) > 1 and token.startswith(_MARKS) for token in vocabulary)

    def __call__(self, token_id: int) -> str:
        raw = self._tokenizer.tokenizer.id_to_token(token_id) or f"#{token_id}"
        text = self._tokenizer.decode([token_id])
        if not text or _BROKEN in text:
            return _SPACE if raw in _MARKS else raw
        letters = text.removeprefix(_PIECE)
        inside = raw.startswith(_PIECE) or (self._marks_beginnings and not raw.startswith(_MARKS))
        return f"{_CONTINUES}{letters}" if inside and letters[:1].isalnum() else text


class WordCounts:
    """Occurrences of every token in a set of texts, in all and at single experts."""

    def __init__(self, ids: Int[Tensor, "B n_t"], mask: Bool[Tensor, "B n_t"], *, tokenizer: TextTokenizer) -> None:
        self.mask = mask
        unique, self.number = ids[mask].unique(return_inverse=True)
        self.occurrences: list[int] = self._counted(torch.ones_like(mask))
        self.tokens: Sequence[str] = [*map(Speller(tokenizer), unique.tolist())]

    def at(self, here: Bool[Tensor, "B n_t"]) -> list[dict[str, Any]]:
        """The tokens among those marked `here` in decreasing order of `count` (ties: by id).

        `count` of the `occurrences` of a token are marked, which is the `share`.
        """
        counts = zip(self.tokens, self._counted(here), self.occurrences, strict=True)
        words = [
            {"token": token, "count": count, "occurrences": occurrences, "share": count / occurrences}
            for token, count, occurrences in counts
            if count > 0
        ]
        return sorted(words, key=lambda word: -word["count"])

    def _counted(self, here: Bool[Tensor, "B n_t"]) -> list[int]:
        size = int(self.number.max()) + 1 if len(self.number) else 0
        return torch.bincount(self.number[here[self.mask]], minlength=size).tolist()
