import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from limoe.data.text.text_tokenizer import TextTokenizer
from limoe.data.text.tokenizers import ByteBPE, TokenizerFile, Unigram
from limoe.errors import DataError

CAPTIONS = ["a red circle", "A Red Square above a red circle", "two blue circles", "the square is blue"] * 5
PAD, EOS = 0, 1


def trained(kind: type[Any] = ByteBPE, captions: Any = CAPTIONS, **settings: bool | int) -> TextTokenizer:
    return kind(**{"vocab_size": 300, "length": 8, "max_captions": 1000, **settings}).fit(captions)


@pytest.fixture(scope="module", params=[ByteBPE, Unigram])
def tokenizer(request: Any) -> TextTokenizer:
    return trained(request.param)


def test_texts_end_with_eos_and_padding_is_masked(tokenizer: TextTokenizer) -> None:
    ids, mask = tokenizer.encode(["a red circle", ""])
    assert ids.dtype == torch.int64
    assert ids.shape == mask.shape == (2, 8)
    # "a", "red", "circle", eos: frequent words are one token each
    assert mask.sum(1).tolist() == [4, 1]
    assert ids[0, 3] == ids[1, 0] == EOS
    assert (ids[~mask] == PAD).all()
    assert (ids[mask] != PAD).all()


def test_eos_stays_last_when_a_text_is_cut(tokenizer: TextTokenizer) -> None:
    ids, mask = tokenizer.encode(["red " * 50, "x" * 3_000_000])
    assert mask.all()
    assert ids[:, -1].tolist() == [EOS, EOS]
    assert (ids[:, :-1] != EOS).all()


def test_case_and_place_do_not_matter(tokenizer: TextTokenizer) -> None:
    first, second = tokenizer.encode(["RED circle", "a Red"])[0]
    assert first[0] == second[1]


@pytest.mark.parametrize("kind", [ByteBPE, Unigram])
def test_every_text_comes_back(kind: type[Any]) -> None:
    long = trained(kind, length=200)
    assert long.unknown_id is None
    for text in ("a red circle", "naïve café ☕ 图片", "tab\tand\nnewline", "emoji 👩‍🦳", "\x00\x07 control"):
        assert long.decode(long.encode([text])[0][0].tolist()) == text.strip()


def test_special_tokens_in_a_caption_are_plain_text(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "tokenizer.json")
    for each in (tokenizer, TextTokenizer.load(tmp_path / "tokenizer.json")):
        ids, mask = each.encode(["<eos> <pad>"])
        assert (ids[0][mask[0]] == EOS).sum() == 1
        assert (ids[0][mask[0]] != PAD).all()


def test_lone_surrogates_become_question_marks(tokenizer: TextTokenizer) -> None:
    assert torch.equal(tokenizer.encode(["a \ud800 b"])[0], tokenizer.encode(["a ? b"])[0])


@pytest.mark.parametrize("kind", [ByteBPE, Unigram])
def test_vocabulary_is_bounded_and_training_repeats_exactly(kind: type[Any]) -> None:
    first, second = (trained(kind, iter(CAPTIONS), vocab_size=264) for _ in range(2))
    assert first.vocab_size == 264
    assert first.tokenizer.to_str() == second.tokenizer.to_str()
    for few in ([], ["ab"]):
        # 256 bytes, padding, eos, and what " ab" can give: " a", "ab", " ab"
        assert 258 <= trained(kind, few, vocab_size=4096).vocab_size <= 261


@pytest.mark.parametrize("kind", [ByteBPE, Unigram])
def test_case_is_kept_where_it_should_be(kind: type[Any]) -> None:
    kept = trained(kind, ["Red red RED"] * 9, lower_case=False)
    one, other = kept.encode(["Red", "red"])[0]
    assert not torch.equal(one, other)
    assert kept.decode(one.tolist()) == "Red"


@pytest.mark.parametrize("kind", [ByteBPE, Unigram])
def test_broken_and_endless_captions_do_not_disturb_training(kind: type[Any]) -> None:
    """A lone surrogate, and words of 300,000 letters, which are cut where `length` tokens end at the latest."""
    odd = trained(kind, [*CAPTIONS, "a \ud800 red", "x" * 300_000, "ab" * 150_000])
    assert odd.encode(["red circle"])[1].sum() == 3


def test_sticky_eos_is_the_padding_too(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    for kind in (ByteBPE, Unigram):
        sticky = trained(kind, sticky_eos=True)
        ids, mask = sticky.encode(["a red circle", "red " * 50])
        plain_ids, plain_mask = trained(kind).encode(["a red circle", "red " * 50])
        assert sticky.sticky_eos and not trained(kind).sticky_eos
        assert torch.equal(mask, plain_mask)  # the first eos still ends the text
        assert torch.equal(ids, plain_ids.where(mask, EOS))
        assert ids[:, -1].tolist() == [EOS, EOS]
        assert sticky.decode(ids[0].tolist()) == "a red circle"


def test_padding_counts_where_asked_for(tmp_path: Path) -> None:
    """As the reference has it: no mask, so that padding is a token like any other. The saved file remembers it."""
    counting = trained(sticky_eos=True, count_pad=True)
    counting.save(tmp_path / "tokenizer.json")
    masked = trained(sticky_eos=True)
    for each in (counting, TextTokenizer.load(tmp_path / "tokenizer.json")):
        assert each.counts_pad and each.sticky_eos
        ids, mask = each.encode(["a red circle", ""])
        assert mask.all()
        assert torch.equal(ids, masked.encode(["a red circle", ""])[0])
    assert not masked.counts_pad


def test_saved_and_loaded_is_the_same(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    loaded = TextTokenizer.load(path)
    assert (loaded.length, loaded.vocab_size) == (8, tokenizer.vocab_size)
    for one, other in zip(loaded.encode([*CAPTIONS, "", "new"]), tokenizer.encode([*CAPTIONS, "", "new"]), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("kind", [ByteBPE, Unigram])
def test_the_sample_reaches_the_end_of_the_captions(kind: type[Any]) -> None:
    """Of 900 captions 60 are read; the last third speaks of squares."""
    captions = ["red circle"] * 600 + ["square"] * 300
    assert trained(kind, captions, max_captions=60).encode(["square"])[1].sum() == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vocab_size": 257}, "vocab_size must be >= 258 (256 bytes, padding, eos), got 257"),
        ({"length": 1}, "length must be >= 2 (one token and eos), got 1"),
        ({"max_captions": 0}, "max_captions must be > 0, got 0"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError) as error:
        ByteBPE(**({"vocab_size": 300, "length": 8, "max_captions": 10} | settings))
    assert str(error.value) == message


def word_file(path: Path, words: list[str]) -> str:
    """A foreign tokenizer.json without length, padding or template."""
    foreign = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    foreign.pre_tokenizer = pre_tokenizers.Whitespace()
    foreign.save(str(path))
    return str(path)


def test_a_foreign_file_gets_length_eos_and_padding(tmp_path: Path) -> None:
    path = word_file(tmp_path / "words.json", ["[UNK]", "red", "[SEP]", "blue"])
    fitted = TokenizerFile(path=path, vocab_size=4, length=4).fit([])
    ids, mask = fitted.encode(["blue red", "green", "red red red red red"])
    # No padding token in the file: the masked rest is eos (2).
    assert ids.tolist() == [[3, 1, 2, 2], [0, 2, 2, 2], [1, 1, 1, 2]]
    assert mask.sum(1).tolist() == [3, 2, 4]


def test_eos_can_be_named(tmp_path: Path) -> None:
    path = word_file(tmp_path / "words.json", ["[UNK]", "red", "END"])
    fitted = TokenizerFile(path=path, vocab_size=3, length=3, eos_token="END").fit([])
    assert fitted.encode(["red"])[0].tolist() == [[1, 2, 2]]


def test_a_file_without_eos_is_refused_by_name(tmp_path: Path) -> None:
    path = word_file(tmp_path / "words.json", ["[UNK]", "red"])
    with pytest.raises(DataError, match=r"words\.json has no end-of-sequence token .*set tokenizer\.eos_token"):
        TokenizerFile(path=path, vocab_size=2, length=4).fit([])


def test_a_wrong_vocabulary_size_is_told_with_both_numbers(tmp_path: Path) -> None:
    path = word_file(tmp_path / "words.json", ["[UNK]", "red", "</s>"])
    with pytest.raises(ValueError, match=r"^vocab_size must be 3, the tokens of .*words\.json, got 99"):
        TokenizerFile(path=path, vocab_size=99, length=4).fit([])


def test_sticky_eos_and_counted_padding_of_a_file(tmp_path: Path) -> None:
    path = word_file(tmp_path / "words.json", ["[UNK]", "red", "</s>", "<pad>"])
    plain, sticky = (TokenizerFile(path=path, vocab_size=4, length=4, sticky_eos=on).fit([]) for on in (False, True))
    assert plain.encode(["red"])[0].tolist() == [[1, 2, 3, 3]]
    assert sticky.encode(["red"])[0].tolist() == [[1, 2, 2, 2]]
    counting = TokenizerFile(path=path, vocab_size=4, length=4, count_pad=True).fit([])
    assert counting.encode(["red"])[1].all()


def test_what_a_file_cannot_spell_is_known_or_refused(tmp_path: Path) -> None:
    path = word_file(tmp_path / "words.json", ["red", "[UNK]", "</s>"])
    assert TokenizerFile(path=path, vocab_size=3, length=4).fit([]).unknown_id == 1
    foreign = Tokenizer(models.Unigram([("r", -1.0), ("</s>", 0.0), ("<unk>", -9.0)], unk_id=2))
    foreign.save(str(tmp_path / "unigram.json"))
    assert TokenizerFile(path=str(tmp_path / "unigram.json"), vocab_size=3, length=4).fit([]).unknown_id == 2
    Tokenizer(models.Unigram([("r", -1.0), ("</s>", 0.0)])).save(str(tmp_path / "none.json"))
    with pytest.raises(DataError, match=r"none\.json cannot encode characters outside its vocabulary"):
        TokenizerFile(path=str(tmp_path / "none.json"), vocab_size=2, length=4).fit([])


def test_files_that_are_no_tokenizers_are_refused_by_name(tmp_path: Path, tokenizer: TextTokenizer) -> None:
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
