"""Captions to token ids of one fixed length, with a mask that is True on real tokens.

Every text ends with the end-of-sequence token (eos), also when it had to be cut, so even "" has one valid token.
Length, eos and padding live in the `tokenizer.json` itself: a saved file needs no other settings to be used again.
"""

import os
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from tqdm import tqdm

from limoe.errors import DataError, require

PAD, EOS = "<pad>", "<eos>"
_KNOWN_EOS = (EOS, "</s>", "<|endoftext|>", "[SEP]", "<|im_end|>", "[EOS]")
_BYTES = 256
_LONGEST_TOKEN = 32  # characters


class TextTokenizer:
    """A `tokenizers.Tokenizer` whose file sets truncation, padding and the closing eos."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        tokenizer.encode_special_tokens = True  # "<eos>" inside a caption is plain text
        # Short texts gain nothing from threads, and a pool started before a loader forks could hang its workers.
        os.environ["TOKENIZERS_PARALLELISM"] = "false"

    @property
    def vocab_size(self) -> int:
        """Rows the token embedding needs at least."""
        return max(self.tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    @property
    def length(self) -> int:
        """Tokens per text, eos and padding included."""
        truncation = self.tokenizer.truncation
        assert truncation is not None
        return truncation["max_length"]

    def encode(self, texts: Sequence[str]) -> tuple[Int[Tensor, "B n_t"], Bool[Tensor, "B n_t"]]:
        """Token ids and mask. Characters that UTF-8 cannot hold (lone surrogates) become "?"."""
        reach = 2 * self.length * _LONGEST_TOKEN  # a text of megabytes is cut before it costs seconds
        clean = [text[:reach].encode("utf-8", "replace").decode("utf-8") for text in texts]
        encodings = self.tokenizer.encode_batch_fast(clean)
        ids = torch.tensor([e.ids for e in encodings], dtype=torch.long).view(len(clean), self.length)
        mask = torch.tensor([e.attention_mask for e in encodings], dtype=torch.bool).view(len(clean), self.length)
        return ids, mask

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids` without eos and padding."""
        return self.tokenizer.decode(list(ids)).strip()

    def save(self, path: str | Path) -> None:
        self.tokenizer.save(str(path))

    @classmethod
    def load(cls, path: str | Path) -> "TextTokenizer":
        """Read what `save` wrote."""
        tokenizer = _read(path)
        if tokenizer.truncation is None or tokenizer.padding is None:
            raise DataError(f"{path} has no text length; a foreign tokenizer is used by tokenizer=file")
        return cls(tokenizer)


@runtime_checkable
class TokenizerFactory(Protocol):
    """What the config group `tokenizer` builds: training captions in, a ready tokenizer out."""

    def fit(self, captions: Iterable[str]) -> TextTokenizer: ...


class ByteBPE:
    """Lower-cased byte-level BPE, trained on at most `max_captions` training captions; no text is out of vocabulary."""

    def __init__(self, *, vocab_size: int, length: int, max_captions: int) -> None:
        minimum = _BYTES + 2
        require(vocab_size >= minimum, "tokenizer.vocab_size", f">= {minimum} (256 bytes, padding, eos)", vocab_size)
        require(length >= 2, "tokenizer.length", ">= 2 (one token and eos)", length)
        require(max_captions > 0, "tokenizer.max_captions", "> 0", max_captions)
        self.vocab_size = vocab_size
        self.length = length
        self.max_captions = max_captions

    def fit(self, captions: Iterable[str]) -> TextTokenizer:
        sample = islice(captions, self.max_captions)
        return train_byte_bpe(sample, vocab_size=self.vocab_size, length=self.length)


class TokenizerFile:
    """Any `tokenizer.json` of the `tokenizers` library; its own template is replaced by "text eos".

    `vocab_size` must be the file's, since the model is built from it. `eos_token` names the token that ends a text;
    None looks for the usual names. Padding is masked, so eos serves as padding where the file has none.
    """

    def __init__(self, *, path: str, vocab_size: int, length: int, eos_token: str | None = None) -> None:
        require(length >= 2, "tokenizer.length", ">= 2 (one token and eos)", length)
        self.path = path
        self.vocab_size = vocab_size
        self.length = length
        self.eos_token = eos_token

    def fit(self, captions: Iterable[str]) -> TextTokenizer:
        """The captions are not looked at: the file is trained already."""
        tokenizer = _read(self.path)
        eos = self._eos(tokenizer)
        pad = next((t for t in (PAD, "[PAD]", "<|pad|>") if tokenizer.token_to_id(t) is not None), eos)
        fitted = _with_length(tokenizer, length=self.length, eos=eos, pad=pad)
        if fitted.vocab_size != self.vocab_size:
            raise DataError(
                f"tokenizer.vocab_size is {self.vocab_size} but {self.path} has {fitted.vocab_size} tokens; "
                f"set tokenizer.vocab_size={fitted.vocab_size}"
            )
        return fitted

    def _eos(self, tokenizer: Tokenizer) -> str:
        names = _KNOWN_EOS if self.eos_token is None else (self.eos_token,)
        for name in names:
            if tokenizer.token_to_id(name) is not None:
                return name
        raise DataError(
            f"{self.path} has no end-of-sequence token ({', '.join(names)}); "
            "set tokenizer.eos_token to the token of the file that ends a text"
        )


def train_byte_bpe(captions: Iterable[str], *, vocab_size: int, length: int) -> TextTokenizer:
    """Train a lower-cased byte-level BPE. Few captions may give fewer than `vocab_size` tokens, never more."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    # With the prefix space a word is the same token wherever it stands.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=_LONGEST_TOKEN,
        show_progress=False,
    )
    bar = tqdm(captions, desc="training the tokenizer", unit=" captions", delay=2, leave=False, disable=None)
    tokenizer.train_from_iterator(bar, trainer=trainer)
    return _with_length(tokenizer, length=length, eos=EOS, pad=PAD)


def _with_length(tokenizer: Tokenizer, *, length: int, eos: str, pad: str) -> TextTokenizer:
    tokenizer.post_processor = processors.TemplateProcessing(
        single=["$A", eos], special_tokens=[(eos, tokenizer.token_to_id(eos))]
    )
    tokenizer.enable_truncation(max_length=length)
    tokenizer.enable_padding(length=length, pad_id=tokenizer.token_to_id(pad), pad_token=pad)
    return TextTokenizer(tokenizer)


def _read(path: str | Path) -> Tokenizer:
    if not Path(path).is_file():
        raise DataError(f"tokenizer file {path} does not exist")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise DataError(f"{path} is not a tokenizer.json of the tokenizers library: {error}") from error
