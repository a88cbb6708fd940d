"""Statistics of a tokenizer on captions: lengths, share cut, compression."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from limoe.data.text.text_tokenizer import TextTokenizer, clean


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
