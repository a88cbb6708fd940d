"""`limoe tokenizer`: the file it writes is the one training would make, and the line it prints makes use of it."""

import logging
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from limoe.cli import main as cli
from limoe.config.objects import instantiate
from limoe.data.text.text_tokenizer import TextTokenizer
from tests.helpers.configs import composed
from tests.helpers.paths import CONFIGS


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    """`limoe tokenizer WORDS` in an empty folder, returns the exit code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIMOE_CONFIG_DIR", str(CONFIGS))
    monkeypatch.setenv("COLUMNS", "200")
    handlers, level = logging.root.handlers[:], logging.root.level

    def call(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["limoe", "tokenizer", *words])
        try:
            cli.main()
        except SystemExit as error:
            return int(error.code or 0)
        return 0

    yield call
    logging.root.handlers[:], logging.root.level = handlers, level


@pytest.mark.parametrize("kind", ["byte_bpe", "unigram"])
def test_the_file_is_the_tokenizer_of_training(
    kind: str, call: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"tokenizer={kind}", "tokenizer.vocab_size=320", "tokenizer.sticky_eos=true", "tokenizer.count_pad=true"]
    assert call(*words, "data.size=40", "out=folder/made.json") == 0
    made = TextTokenizer.load("folder/made.json")
    captions = list(instantiate(composed("data.size=40").data.module.train).captions())
    trained = instantiate(composed(*words).tokenizer).fit(captions)
    assert made.tokenizer.to_str() == trained.tokenizer.to_str()
    out = capsys.readouterr().out
    assert f"{len(captions)}" in out and "320 tokens" in out and "all texts are covered" in out
    use = next(line for line in out.splitlines() if line.startswith("use it: limoe train ... "))
    used = instantiate(composed(*shlex.split(use)[5:]).tokenizer).fit([])
    for one, other in zip(used.encode(captions), trained.encode(captions), strict=True):
        assert torch.equal(one, other)


def test_nothing_is_overwritten_unasked(call: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    Path("tokenizer.json").write_text("mine")
    assert call("data.size=40") == 2
    assert capsys.readouterr().err == (
        "limoe: error: out must be a new file (overwrite=true replaces an old one), got 'tokenizer.json'\n"
    )
    assert Path("tokenizer.json").read_text() == "mine"
    assert call("data.size=40", "overwrite=true", "max_measured=10") == 0
    assert "(measured on 10 of them)" in capsys.readouterr().out
    assert TextTokenizer.load("tokenizer.json").length == 16


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tokenizer.vocab_size=3"], "tokenizer.vocab_size must be >= 258"),
        (["tokenizer=file"], "tokenizer.path needs a value"),
        (["data=emoji", "data.root=/nowhere"], "/nowhere"),
        (["data.size=4", "out=blocked/tokenizer.json"], "out: blocked/tokenizer.json cannot be written"),
    ],
)
def test_faults_are_told_in_one_line(
    words: list[str], message: str, call: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("blocked").write_text("a file where a folder should be")
    assert call(*words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and message in lines[0]
    assert not Path("tokenizer.json").exists()
