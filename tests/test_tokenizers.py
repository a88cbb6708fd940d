import json

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from limoe.data.tokenizers import ByteBPE, TextTokenizer, TokenizerFile, train_byte_bpe
from limoe.errors import ConfigError, DataError

CAPTIONS = ["a red circle", "A Red Square above a red circle", "two blue circles", "the square is blue"] * 5
PAD, EOS = 0, 1


@pytest.fixture(scope="module")
def tokenizer():
    return train_byte_bpe(CAPTIONS, vocab_size=300, length=8)


def test_texts_end_with_eos_and_padding_is_masked(tokenizer):
    ids, mask = tokenizer.encode(["a red circle", ""])
    assert ids.dtype == torch.int64
    assert ids.shape == mask.shape == (2, 8)
    # "a", "red", "circle", eos: frequent words are one token each
    assert mask.sum(1).tolist() == [4, 1]
    assert ids[0, 3] == ids[1, 0] == EOS
    assert (ids[~mask] == PAD).all()
    assert (ids[mask] != PAD).all()


def test_eos_stays_last_when_a_text_is_cut(tokenizer):
    ids, mask = tokenizer.encode(["red " * 50, "x" * 3_000_000])
    assert mask.all()
    assert ids[:, -1].tolist() == [EOS, EOS]
    assert (ids[:, :-1] != EOS).all()


def test_case_and_place_do_not_matter(tokenizer):
    first, second = tokenizer.encode(["RED circle", "a Red"])[0]
    assert first[0] == second[1]


def test_every_text_comes_back(tokenizer):
    long = TextTokenizer(train_byte_bpe(CAPTIONS, vocab_size=300, length=200).tokenizer)
    for text in ("a red circle", "naïve café ☕ 图片", "tab\tand\nnewline", "emoji 👩‍🦳", "\x00\x07 control"):
        assert long.decode(long.encode([text])[0][0].tolist()) == text.strip()


def test_special_tokens_in_a_caption_are_plain_text(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer.json")
    for each in (tokenizer, TextTokenizer.load(tmp_path / "tokenizer.json")):
        ids, mask = each.encode(["<eos> <pad>"])
        assert (ids[0][mask[0]] == EOS).sum() == 1
        assert (ids[0][mask[0]] != PAD).all()


def test_lone_surrogates_become_question_marks(tokenizer):
    assert torch.equal(tokenizer.encode(["a \ud800 b"])[0], tokenizer.encode(["a ? b"])[0])


def test_vocabulary_is_bounded_and_training_repeats_exactly():
    first, second = (train_byte_bpe(iter(CAPTIONS), vocab_size=280, length=8) for _ in range(2))
    assert first.vocab_size == 280
    assert first.tokenizer.to_str() == second.tokenizer.to_str()
    few = train_byte_bpe(["ab"], vocab_size=4096, length=8)
    assert few.vocab_size < 262  # 256 bytes, padding, eos, and what "ab" can give


def test_saved_and_loaded_is_the_same(tokenizer, tmp_path):
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    loaded = TextTokenizer.load(path)
    assert (loaded.length, loaded.vocab_size) == (8, tokenizer.vocab_size)
    for one, other in zip(loaded.encode([*CAPTIONS, "", "new"]), tokenizer.encode([*CAPTIONS, "", "new"]), strict=True):
        assert torch.equal(one, other)


def test_byte_bpe_reads_only_its_sample():
    def endless():
        while True:
            yield "a red circle"

    fitted = ByteBPE(vocab_size=300, length=8, max_captions=10).fit(endless())
    assert fitted.encode(["red"])[1].sum() == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vocab_size": 257}, "tokenizer.vocab_size must be >= 258 (256 bytes, padding, eos), got 257"),
        ({"length": 1}, "tokenizer.length must be >= 2 (one token and eos), got 1"),
        ({"max_captions": 0}, "tokenizer.max_captions must be > 0, got 0"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ConfigError) as error:
        ByteBPE(**({"vocab_size": 300, "length": 8, "max_captions": 10} | settings))
    assert str(error.value) == message


def word_file(path, words):
    """A foreign tokenizer.json without length, padding or template."""
    foreign = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    foreign.pre_tokenizer = pre_tokenizers.Whitespace()
    foreign.save(str(path))
    return str(path)


def test_a_foreign_file_gets_length_eos_and_padding(tmp_path):
    path = word_file(tmp_path / "words.json", ["[UNK]", "red", "[SEP]", "blue"])
    fitted = TokenizerFile(path=path, vocab_size=4, length=4).fit([])
    ids, mask = fitted.encode(["blue red", "green", "red red red red red"])
    # No padding token in the file: the masked rest is eos (2).
    assert ids.tolist() == [[3, 1, 2, 2], [0, 2, 2, 2], [1, 1, 1, 2]]
    assert mask.sum(1).tolist() == [3, 2, 4]


def test_eos_can_be_named(tmp_path):
    path = word_file(tmp_path / "words.json", ["[UNK]", "red", "END"])
    fitted = TokenizerFile(path=path, vocab_size=3, length=3, eos_token="END").fit([])
    assert fitted.encode(["red"])[0].tolist() == [[1, 2, 2]]


def test_a_file_without_eos_is_refused_by_name(tmp_path):
    path = word_file(tmp_path / "words.json", ["[UNK]", "red"])
    with pytest.raises(DataError, match=r"words\.json has no end-of-sequence token .*set tokenizer\.eos_token"):
        TokenizerFile(path=path, vocab_size=2, length=4).fit([])


def test_a_wrong_vocabulary_size_is_told_with_both_numbers(tmp_path):
    path = word_file(tmp_path / "words.json", ["[UNK]", "red", "</s>"])
    with pytest.raises(DataError, match=r"vocab_size is 99 but .*words\.json has 3 tokens"):
        TokenizerFile(path=path, vocab_size=99, length=4).fit([])


def test_files_that_are_no_tokenizers_are_refused_by_name(tmp_path, tokenizer):
    broken, other = tmp_path / "broken.json", tmp_path / "other.json"
    tokenizer.save(broken)
    broken.write_text(broken.read_text()[:500])
    other.write_text(json.dumps({"a": 1}))
    for path in (broken, other):
        with pytest.raises(DataError, match=rf"{path.name} is not a tokenizer\.json"):
            TextTokenizer.load(path)
    with pytest.raises(DataError, match="does not exist"):
        TextTokenizer.load(tmp_path / "missing.json")
    with pytest.raises(DataError, match="has no text length"):
        TextTokenizer.load(word_file(tmp_path / "words.json", ["[UNK]"]))
