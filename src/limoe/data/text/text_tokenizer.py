"""Tokenization of captions to a fixed length, with a mask that is True on valid tokens.

Every text ends with the end-of-sequence token (eos), also when it is cut, so even "" has one valid token. Length, eos
and padding are stored in the `tokenizer.json` itself: a saved file needs no other settings.
"""

import json
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from tokenizers import Tokenizer, processors
from torch import Tensor

from limoe.errors import DataError

LONGEST_TOKEN = 32  # characters
_MASKED, _COUNTED = 0, 1  # type id of padding in the file: whether the mask is True on it


class TextTokenizer:
    """A `tokenizers.Tokenizer` with truncation, padding and the closing eos set in its file."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        tokenizer.encode_special_tokens = True  # "<eos>" inside a caption is plain text
        # Threads do not help with short texts, and a pool started before a loader forks could deadlock its workers.
        os.environ["TOKENIZERS_PARALLELISM"] = "false"

    @property
    def vocab_size(self) -> int:
        """Smallest number of rows of the token embedding."""
        return max(self.tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    @cached_property
    def length(self) -> int:
        """Tokens per text, eos and padding included."""
        truncation = self.tokenizer.truncation
        assert truncation is not None
        return truncation["max_length"]

    @cached_property
    def counts_pad(self) -> bool:
        """True if the mask is True on padding too."""
        return self._padding["pad_type_id"] == _COUNTED

    @property
    def sticky_eos(self) -> bool:
        """True if padding is eos."""
        return self._padding["pad_id"] == self.tokenizer.encode("").ids[0]

    @property
    def _padding(self) -> dict[str, Any]:
        padding = self.tokenizer.padding
        assert padding is not None
        return padding

    @cached_property
    def unknown_id(self) -> int | None:
        """Id of the unknown token; None if the vocabulary covers every text."""
        model = json.loads(self.tokenizer.to_str())["model"]
        if model.get("unk_token") is not None:
            return self.tokenizer.token_to_id(model["unk_token"])
        return model.get("unk_id")

    def encode(self, texts: Sequence[str]) -> tuple[Int[Tensor, "B n_t"], Bool[Tensor, "B n_t"]]:
        """Token ids and mask. Lone surrogates become "?"."""
        encodings = self.tokenizer.encode_batch_fast([clean(text, length=self.length) for text in texts])
        ids = torch.tensor([e.ids for e in encodings], dtype=torch.long).view(len(texts), self.length)
        if self.counts_pad:
            return ids, torch.ones_like(ids, dtype=torch.bool)
        mask = torch.tensor([e.attention_mask for e in encodings], dtype=torch.bool).view(len(texts), self.length)
        return ids, mask

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids` without eos and padding."""
        return self.tokenizer.decode(list(ids)).strip()

    def save(self, path: str | Path) -> None:
        self.tokenizer.save(str(path))

    @classmethod
    def load(cls, path: str | Path) -> "TextTokenizer":
        """Read a file written by `save`."""
        tokenizer = read_tokenizer(path)
        if tokenizer.truncation is None or tokenizer.padding is None:
            raise DataError(f"{path} has no text length; use tokenizer=file for a tokenizer that limoe did not save")
        return cls(tokenizer)


def read_tokenizer(path: str | Path) -> Tokenizer:
    """Read any tokenizer.json, unchanged. Raises `DataError` if it is missing or unreadable."""
    if not Path(path).is_file():
        raise DataError(f"tokenizer file {path} does not exist")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise DataError(f"{path} is not a tokenizer.json of the tokenizers library: {error}") from error


def fixed_length(tokenizer: Tokenizer, *, length: int, eos: str, pad: str, count_pad: bool) -> TextTokenizer:
    """Texts become "text eos pad pad ...", `length` tokens in all. `count_pad`: the mask is True on padding too."""
    tokenizer.post_processor = processors.TemplateProcessing(
        single=["$A", eos], special_tokens=[(eos, tokenizer.token_to_id(eos))]
    )
    tokenizer.enable_truncation(max_length=length)
    kind = _COUNTED if count_pad else _MASKED
    tokenizer.enable_padding(length=length, pad_id=tokenizer.token_to_id(pad), pad_token=pad, pad_type_id=kind)
    return TextTokenizer(tokenizer)


def clean(text: str, *, length: int) -> str:
    """Cut a text to the most characters that `length` tokens can hold (limits time); lone surrogates become "?"."""
    return text[: 2 * length * LONGEST_TOKEN].encode("utf-8", "replace").decode("utf-8")


def measure(tokenizer: TextTokenizer, captions: Sequence[str]) -> dict[str, Any]:
    """Statistics by name over `captions` (at least one), encoded without limit on their length.

    Lengths count tokens with the closing eos, the other rates without it. `p95_length`: 95 % of the captions have at
    most this many tokens. `cut`: share of captions longer than the tokenizer's length. `unknown`: share of unknown
    tokens, None for a tokenizer without one.
    """
    unlimited = Tokenizer.from_str(tokenizer.tokenizer.to_str())
    unlimited.encode_special_tokens = True
    unlimited.no_truncation()
    unlimited.no_padding()
    texts = [clean(caption, length=tokenizer.length) for caption in captions]
    ids = [encoding.ids for encoding in unlimited.encode_batch_fast(texts)]
    lengths = np.array([len(own) for own in ids])
    counts = np.bincount(np.concatenate(ids), minlength=tokenizer.vocab_size)  # occurrences of each token
    pieces = max(1, int(counts.sum()) - len(texts))  # one token of each caption is eos
    return {
        "captions": len(texts),
        "mean_length": float(lengths.mean()),
        "p95_length": int(np.quantile(lengths, 0.95, method="inverted_cdf")),
        "cut": float((lengths > tokenizer.length).mean()),
        "bytes_per_token": sum(len(text.encode()) for text in texts) / pieces,
        "used_tokens": int((counts > 0).sum()),
        "unknown": None if tokenizer.unknown_id is None else float(counts[tokenizer.unknown_id] / pieces),
    }
