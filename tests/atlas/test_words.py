"""Tokens as people read them, and how often each goes where."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from limoe.atlas.words import Speller, WordCounts
from limoe.data.text.text_tokenizer import TextTokenizer, fixed_length
from limoe.data.text.tokenizers import ByteBPE


def byte_bpe() -> TextTokenizer:
    return ByteBPE(vocab_size=262, length=8, max_captions=100).fit(["cat cat cat"] * 9)


def spellings(tokenizer: TextTokenizer, text: str) -> list[str]:
    ids, mask = tokenizer.encode([text])
    return [*map(Speller(tokenizer), ids[0][mask[0]].tolist())]


def test_words_parts_of_words_and_specials_are_told_apart() -> None:
    assert spellings(byte_bpe(), "cat") == ["cat", "<eos>"]
    assert spellings(byte_bpe(), "cats:")[:4] == ["cat", "‑s", ":", "<eos>"]
    half = spellings(byte_bpe(), "é")  # two bytes, none of them a letter
    assert len(half) == 4 and half[0] == "␣" and not any("\ufffd" in token for token in half)


def test_word_pieces_are_read_as_well() -> None:
    vocab = {token: i for i, token in enumerate(["[PAD]", "[SEP]", "[UNK]", "cat", "##ty", ":"])}
    pieces = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    pieces.pre_tokenizer, pieces.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    tokenizer = fixed_length(pieces, length=6, eos="[SEP]", pad="[PAD]", count_pad=False)
    assert spellings(tokenizer, "catty: cat") == ["cat", "‑ty", ":", "cat", "[SEP]"]


def test_counts_of_tokens_in_all_and_here() -> None:
    tokenizer = byte_bpe()
    ids, mask = tokenizer.encode(["cat cat", "cat", "a"])  # padding is no token
    words = WordCounts(ids, mask, tokenizer=tokenizer)
    everywhere = {word["token"]: (word["count"], word["occurrences"]) for word in words.at(mask)}
    assert everywhere["cat"] == (3, 3) and everywhere["<eos>"] == (3, 3) and "<pad>" not in everywhere
    here = torch.zeros_like(mask)
    here[0, :2] = True  # both cats of the first text
    here[1, 1] = True  # the end of the second
    cat = {"token": "cat", "count": 2, "occurrences": 3, "share": 2 / 3}
    assert words.at(here) == [cat, {"token": "<eos>", "count": 1, "occurrences": 3, "share": 1 / 3}]
    assert words.at(torch.zeros_like(mask)) == []
