import json
from collections import Counter

import pytest
from tokenizers import Tokenizer

from limoe.data.text.tokenizers import train_unigram

ALPHABET = list("abcdefghijklmnopqrstuvwxyz")
WORDS = Counter({"woman": 500, "man": 300, "playing": 200, "play": 150, "handball": 80, "quizzed": 1})


def trained(words: Counter[str], *, vocab_size: int) -> Tokenizer:
    return Tokenizer(train_unigram(words, vocab_size=vocab_size, special=["<eos>"], alphabet=ALPHABET, max_length=8))


def scores(tokenizer: Tokenizer) -> list[tuple[str, float]]:
    return [tuple(item) for item in json.loads(tokenizer.to_str())["model"]["vocab"]]


def test_frequent_words_are_one_piece_even_where_no_other_word_holds_them() -> None:
    tokenizer = trained(WORDS, vocab_size=60)
    for word in ("woman", "man", "playing", "play", "handball"):
        assert tokenizer.encode(word).tokens == [word]


def test_special_first_then_pieces_by_falling_probability_and_the_whole_alphabet() -> None:
    vocabulary = scores(trained(WORDS, vocab_size=30))
    assert vocabulary[0] == ("<eos>", 0.0) and len(vocabulary) == 30
    values = [score for _, score in vocabulary[1:]]
    assert values == sorted(values, reverse=True)
    assert {piece for piece, _ in vocabulary} > set(ALPHABET)
    assert all(" " not in piece for piece, _ in vocabulary)


def test_rare_letters_score_alike() -> None:
    vocabulary = dict(scores(trained(WORDS, vocab_size=60)))
    assert len({vocabulary[letter] for letter in "cfjkrstvx"}) == 1  # none occurs


def test_training_repeats_exactly_whatever_the_order_of_words() -> None:
    backwards = Counter(dict(reversed(WORDS.items())))
    first, second = (trained(words, vocab_size=50).to_str() for words in (WORDS, backwards))
    assert first == second


@pytest.mark.parametrize("words", [Counter(), Counter({"a": 1}), Counter({"ab": 1})])
def test_hardly_any_words_leave_the_alphabet(words: Counter[str]) -> None:
    tokenizer = trained(words, vocab_size=1000)
    assert tokenizer.encode("zebra").tokens == list("zebra")
