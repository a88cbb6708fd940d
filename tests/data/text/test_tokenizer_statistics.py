import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from limoe.data.text.text_tokenizer import TextTokenizer, fixed_length, measure
from limoe.data.text.tokenizers import ByteBPE


@pytest.fixture
def words() -> TextTokenizer:
    """One token per known word, <unk> for any other; texts of 4 tokens."""
    vocabulary = {"<eos>": 0, "<unk>": 1, "red": 2, "blue": 3, "never": 4}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return fixed_length(tokenizer, length=4, eos="<eos>", pad="<eos>", count_pad=False)


def test_numbers_of_a_few_captions(words: TextTokenizer) -> None:
    statistics = measure(words, ["red", "red blue", "red é red", "red red red red red"])
    # Tokens with eos: 2, 3, 4, 6; without: 1 + 2 + 3 + 5 = 11, one of them unknown.
    assert statistics["captions"] == 4
    assert statistics["mean_length"] == 15 / 4
    assert statistics["p95_length"] == 6
    assert statistics["cut"] == 1 / 4
    # Characters: 3 + 8 + 9 + 19 = 39; é has two bytes.
    assert statistics["bytes_per_token"] == 40 / 11
    assert statistics["unknown"] == 1 / 11
    assert statistics["used_tokens"] == 4  # eos, unknown, red, blue


def test_most_captions_decide_on_the_95_percent(words: TextTokenizer) -> None:
    statistics = measure(words, ["red"] * 95 + ["red red red"] * 5)
    assert statistics["p95_length"] == 2
    assert measure(words, ["red"] * 94 + ["red red red"] * 6)["p95_length"] == 4


def test_the_tokenizer_stays_as_it_was(words: TextTokenizer) -> None:
    before = words.tokenizer.to_str()
    measure(words, ["red " * 100])
    assert words.tokenizer.to_str() == before


def test_bytes_cover_every_text() -> None:
    tokenizer = ByteBPE(vocab_size=300, length=8, max_captions=10).fit(["red circle"] * 5)
    assert measure(tokenizer, ["red"])["unknown"] is None


def test_a_text_that_vanishes() -> None:
    tokenizer = Tokenizer(models.WordLevel({"<eos>": 0, "": 1}, unk_token="<eos>"))
    tokenizer.normalizer = normalizers.Strip()
    fixed = fixed_length(tokenizer, length=3, eos="<eos>", pad="<eos>", count_pad=False)
    assert measure(fixed, ["   "])["bytes_per_token"] == 3.0  # over at least one piece
