"""Tokenizers trained on the captions (byte-level BPE or Unigram), or read from a file."""

import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, repeat
from random import Random
from typing import Protocol, runtime_checkable

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tqdm import tqdm

from limoe.data.text.text_tokenizer import LONGEST_TOKEN, TextTokenizer, clean, fixed_length, read_tokenizer
from limoe.errors import DataError, require_argument

PAD, EOS = "<pad>", "<eos>"
_KNOWN_PAD = (PAD, "[PAD]", "<|pad|>")
_KNOWN_EOS = (EOS, "</s>", "<|endoftext|>", "[SEP]", "<|im_end|>", "[EOS]")
_BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())  # one visible character for each of the 256 bytes
# With the prefix space a word is the same token at any position.
_SPLIT = pre_tokenizers.ByteLevel(add_prefix_space=True)
_END = " "  # byte-level words hold no blank
_STEP = 0.0001  # difference of log probability between the bytes that the trainer adds at the end


@runtime_checkable
class TokenizerFactory(Protocol):
    """Interface of the config group `tokenizer`: makes a tokenizer from training captions."""

    def fit(self, captions: Iterable[str]) -> TextTokenizer: ...


@dataclass(kw_only=True)
class ByteLevelTokenizer(ABC):
    """A tokenizer of bytes and longer pieces, trained on a sample of the captions; no text is out of vocabulary.

    Args:
        vocab_size: largest number of tokens; few captions give fewer.
        length: tokens per text, eos and padding included.
        max_captions: largest number of captions to train on, drawn uniformly.
        lower_case: convert texts to lower case.
        sticky_eos: pad with eos, as in the reference, instead of a padding token.
        count_pad: the mask is True on padding, as in the reference: it is attended, pooled and routed.
    """

    vocab_size: int
    length: int
    max_captions: int
    lower_case: bool = True
    sticky_eos: bool = False
    count_pad: bool = False

    def __post_init__(self) -> None:
        minimum = len(_BYTES) + len((PAD, EOS))
        rule = f">= {minimum} (256 bytes, padding, eos)"
        require_argument(self.vocab_size >= minimum, "vocab_size", rule, self.vocab_size)
        _require_length(self.length)
        require_argument(self.max_captions > 0, "max_captions", "> 0", self.max_captions)

    def fit(self, captions: Iterable[str]) -> TextTokenizer:
        """Train a tokenizer; the same captions in the same order give the same one."""
        sample, _ = sample_captions(captions, size=self.max_captions)
        bar = tqdm(sample, desc="training the tokenizer", unit=" captions", delay=2, leave=False, disable=None)
        model = self._train(clean(caption, length=self.length) for caption in bar)
        tokenizer = self._around(model)
        tokenizer.add_special_tokens([PAD, EOS])  # the model has them already: ids 0 and 1
        pad = EOS if self.sticky_eos else PAD
        return fixed_length(tokenizer, length=self.length, eos=EOS, pad=pad, count_pad=self.count_pad)

    @abstractmethod
    def _train(self, texts: Iterator[str]) -> models.Model:
        """The trained model: tokens 0 and 1 are padding and eos, the 256 bytes are among the others."""

    def _around(self, model: models.Model) -> Tokenizer:
        tokenizer = Tokenizer(model)
        tokenizer.normalizer = self._normalizer()
        tokenizer.pre_tokenizer = _SPLIT
        tokenizer.decoder = decoders.ByteLevel()
        return tokenizer

    def _normalizer(self) -> normalizers.Normalizer:
        lower_case = [normalizers.Lowercase()] if self.lower_case else []
        return normalizers.Sequence([normalizers.NFC(), *lower_case])


class ByteBPE(ByteLevelTokenizer):
    """Byte-pair encoding: the most frequent pair of neighbours is merged first."""

    def _train(self, texts: Iterator[str]) -> models.Model:
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocab_size,
            special_tokens=[PAD, EOS],
            initial_alphabet=_BYTES,
            max_token_length=LONGEST_TOKEN,
            show_progress=False,
        )
        tokenizer = self._around(models.BPE())
        tokenizer.train_from_iterator(texts, trainer=trainer)
        return tokenizer.model


class Unigram(ByteLevelTokenizer):
    """Unigram language model: the most probable segmentation of a word, as in SentencePiece by default."""

    def _train(self, texts: Iterator[str]) -> models.Model:
        return train_unigram(
            self._words(texts),
            vocab_size=self.vocab_size,
            special=[PAD, EOS],
            alphabet=_BYTES,
            max_length=LONGEST_TOKEN,
        )

    def _words(self, texts: Iterator[str]) -> Counter[str]:
        """Occurrences of each byte-level word; texts are first counted by blank-separated parts, for speed."""
        parts: Counter[str] = Counter()
        for text in texts:
            parts.update(text.split(" "))
        words: Counter[str] = Counter()
        normal = self._normalizer()
        for part, count in parts.items():
            for word, _ in _SPLIT.pre_tokenize_str(normal.normalize_str(part)):
                words[word] += count
        return words


@dataclass(kw_only=True)
class TokenizerFile:
    """Any `tokenizer.json` of the `tokenizers` library; its own template is replaced by "text eos".

    `vocab_size` must be the file's, since the model is built from it. `eos_token` is the token that ends a text; None
    tries the usual names. `sticky_eos` and `count_pad` as in `ByteLevelTokenizer`; a file without a padding token is
    padded with eos.
    """

    path: str
    vocab_size: int
    length: int
    eos_token: str | None = None
    sticky_eos: bool = False
    count_pad: bool = False

    def __post_init__(self) -> None:
        _require_length(self.length)

    def fit(self, captions: Iterable[str]) -> TextTokenizer:
        """Read the file; `captions` are not used."""
        tokenizer = read_tokenizer(self.path)
        eos = self._eos(tokenizer)
        known_pad = () if self.sticky_eos else _KNOWN_PAD
        pad = next((token for token in known_pad if tokenizer.token_to_id(token) is not None), eos)
        fitted = fixed_length(tokenizer, length=self.length, eos=eos, pad=pad, count_pad=self.count_pad)
        rule = f"{fitted.vocab_size}, the tokens of {self.path}"
        require_argument(self.vocab_size == fitted.vocab_size, "vocab_size", rule, self.vocab_size)
        try:
            fitted.encode(["\U00010ffd"])  # some models raise an error on a character outside the vocabulary
        except Exception as error:  # the library raises bare Exception
            raise DataError(f"{self.path} cannot encode characters outside its vocabulary: {error}") from error
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


def sample_captions(captions: Iterable[str], *, size: int) -> tuple[list[str], int]:
    """Uniform sample of at most `size` captions (reservoir sampling), and the number of all captions. The same
    captions in the same order give the same sample.
    """
    reader = iter(tqdm(captions, desc="reading captions", unit="", delay=2, leave=False, disable=None))
    rng = Random(0)
    kept = list(islice(reader, size))
    total = len(kept)
    for caption in reader:
        total += 1
        place = int(rng.random() * total)
        if place < size:
            kept[place] = caption
    return kept, total


def _require_length(length: int) -> None:
    require_argument(length >= 2, "length", ">= 2 (one token and eos)", length)


def train_unigram(
    words: Counter[str], *, vocab_size: int, special: Sequence[str], alphabet: Sequence[str], max_length: int
) -> models.Unigram:
    """Train a model of at most `vocab_size` tokens: `special`, then pieces of `words`, among them all of `alphabet`.

    Args:
        words: occurrences of each word.
        alphabet: the characters that words are made of.
        max_length: largest number of characters of a piece.
    """
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size + 1,  # the end mark is removed below
        special_tokens=list(special),
        initial_alphabet=[*alphabet, _END],
        max_piece_length=max_length,
        show_progress=False,
    )
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.train_from_iterator(_with_candidates(words), trainer=trainer)
    scores: dict[str, float | None] = dict(json.loads(tokenizer.to_str())["model"]["vocab"])  # None: without any words
    pieces = {p: s for p, s in scores.items() if s is not None and _END not in p and p not in special}
    return models.Unigram([*((token, 0.0) for token in special), *_in_fixed_order(pieces, alphabet=alphabet)])


def _with_candidates(words: Counter[str]) -> Iterator[str]:
    """Each word as often as it occurs, once of these with the end mark.

    The trainer's candidates are the strings with at least two continuations in the list of different words. A word that
    is not part of another one would be no candidate at any frequency; the end mark gives it a second continuation.
    """
    for word, count in words.items():
        yield from repeat(word, max(1, count - 1))
        if count > 1:
            yield word + _END


def _in_fixed_order(pieces: dict[str, float], *, alphabet: Sequence[str]) -> list[tuple[str, float]]:
    """Pieces and their log probabilities, in decreasing order.

    The trainer adds rare and absent characters in random order, `_STEP` apart, near the least probable longer piece:
    here they get equal scores. The last digits of scores depend on the order of sums and are rounded.
    """
    longer = {piece: round(score, 6) for piece, score in pieces.items() if len(piece) > 1}
    lowest = min(longer.values(), default=0.0) + (len(alphabet) + 1) * _STEP
    single = {character: max(round(pieces.get(character, lowest), 6), lowest) for character in alphabet}
    return sorted((longer | single).items(), key=lambda item: (-item[1], item[0]))
