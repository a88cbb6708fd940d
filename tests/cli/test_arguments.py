"""Options go before overrides, whatever the order they were typed in."""

import pytest

from limoe.cli.arguments import overrides, split
from limoe.errors import ConfigError


def test_options_keep_their_values() -> None:
    words = ["a=1", "-m", "--cfg", "job", "~b", "--package=model", "run-1", "--info", "+c=2"]
    assert split(words) == (
        ["-m", "--cfg", "job", "--package", "model", "--info", "all"],
        ["a=1", "~b", "run-1", "+c=2"],
    )


@pytest.mark.parametrize("words", [["--config-path", "x"], ["--experimental-rerun", "x"], ["-x"], ["--package"]])
def test_what_is_no_option_is_refused(words: list[str]) -> None:
    """Reruns unpickle a file, and the config path is `LIMOE_CONFIG_DIR`: neither option exists here."""
    with pytest.raises(ConfigError, match="option"):
        split(words)


def test_positional_words_come_first_so_that_an_override_wins() -> None:
    assert overrides(["runs=[b]", "a"], positional=["runs"]) == ["runs=['a']", "runs=[b]"]
    assert overrides(["a", "~x", "s=1"], positional="ckpt") == ["ckpt='a'", "~x", "s=1"]
    assert overrides(["s=1"], positional="ckpt") == ["s=1"]


def test_a_word_too_many() -> None:
    with pytest.raises(ConfigError, match="'b'"):
        overrides(["a", "b"], positional="ckpt")
    with pytest.raises(ConfigError, match="'a'"):
        overrides(["a"], positional=None)


def test_a_command_can_have_options_of_its_own() -> None:
    flags = {"--json": "json=true"}
    assert split(["a=1", "--json", "--resolve"], flags=flags) == (["--resolve"], ["a=1", "json=true"])
    with pytest.raises(ConfigError, match="unknown option '--jsn'; did you mean '--json'"):
        split(["--jsn"], flags=flags)
    with pytest.raises(ConfigError, match="unknown option '--json'"):
        split(["--json"])
