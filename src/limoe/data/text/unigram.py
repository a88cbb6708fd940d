"""Reproducible training of a Unigram model, with whole words among its candidates."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import repeat

from tokenizers import Tokenizer, models, trainers

_END = " "  # byte-level words hold no blank
_STEP = 0.0001  # difference of log probability between the bytes that the trainer adds at the end


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
