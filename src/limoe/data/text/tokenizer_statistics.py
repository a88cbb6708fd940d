"""Statistics of a tokenizer on captions: lengths, share cut, compression, pieces."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer
from tqdm import tqdm

from limoe.data.text.text_tokenizer import TextTokenizer, clean

_BATCH = 10_000  # captions encoded at once


@dataclass(frozen=True)
class TokenizerStatistics:
    """Statistics over `captions` uncut captions. Lengths count tokens with the closing eos, the other rates without it.
    `p95_length`: 95 % of the captions have at most this many tokens. `cut`: share of captions longer than the
    tokenizer's length. `unknown`: share of unknown tokens, None for a tokenizer without one.
    """

    captions: int
    mean_length: float
    median_length: float
    p95_length: int
    cut: float
    bytes_per_token: float
    characters_per_token: float
    used_tokens: int
    unknown: float | None


def measure(tokenizer: TextTokenizer, captions: Sequence[str]) -> TokenizerStatistics:
    """Encode `captions` (at least one) without limit on their length."""
    texts = [clean(caption, length=tokenizer.length) for caption in captions]
    lengths, counts = _encoded(tokenizer, texts)
    pieces = max(1, int(counts.sum()) - len(texts))  # one token of each caption is eos
    unknown = None if tokenizer.unknown_id is None else float(counts[tokenizer.unknown_id] / pieces)
    return TokenizerStatistics(
        captions=len(texts),
        mean_length=float(lengths.mean()),
        median_length=float(np.median(lengths)),
        p95_length=int(np.quantile(lengths, 0.95, method="inverted_cdf")),
        cut=float((lengths > tokenizer.length).mean()),
        bytes_per_token=sum(len(text.encode()) for text in texts) / pieces,
        characters_per_token=sum(map(len, texts)) / pieces,
        used_tokens=int((counts > 0).sum()),
        unknown=unknown,
    )


def visible_pieces(tokenizer: TextTokenizer, text: str) -> list[str]:
    """Tokens of a text after cutting, eos included. "▁" is a blank; single bytes are shown as in the file."""
    encoding = tokenizer.tokenizer.encode(clean(text, length=tokenizer.length))
    kept = sum(encoding.attention_mask)
    return [_visible(tokenizer.tokenizer, id_) for id_ in encoding.ids[:kept]]


def _visible(tokenizer: Tokenizer, id_: int) -> str:
    text = tokenizer.decode([id_], skip_special_tokens=False)
    return (tokenizer.id_to_token(id_) or "") if "\ufffd" in text or not text else text.replace(" ", "▁")


def _encoded(tokenizer: TextTokenizer, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(number of tokens of each text, number of occurrences of each token id)."""
    unlimited = Tokenizer.from_str(tokenizer.tokenizer.to_str())
    unlimited.encode_special_tokens = True
    unlimited.no_truncation()
    unlimited.no_padding()
    lengths: list[int] = []
    counts = np.zeros(tokenizer.vocab_size, dtype=np.int64)
    with tqdm(total=len(texts), desc="measuring", unit=" captions", delay=2, leave=False, disable=None) as bar:
        for start in range(0, len(texts), _BATCH):
            ids = [encoding.ids for encoding in unlimited.encode_batch_fast(texts[start : start + _BATCH])]
            lengths += map(len, ids)
            counts += np.bincount(np.concatenate(ids), minlength=tokenizer.vocab_size)
            bar.update(len(ids))
    return np.array(lengths), counts
