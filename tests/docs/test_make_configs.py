"""docs/configs.md is what the comments in configs/ say, and every key has a comment."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from tests.helpers.configs import COMMANDS, GROUPS, OPTIONS
from tests.helpers.paths import REPO


@pytest.fixture(scope="module")
def writer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_configs", REPO / "docs" / "make_configs.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date(writer: ModuleType) -> None:
    assert writer.PAGE.read_text() == writer.page(), "run: python docs/make_configs.py"


def test_every_group_option_and_command_is_there(writer: ModuleType) -> None:
    page = writer.page()
    titles = re.findall(r"^##+ (\w+)$", page, re.MULTILINE)
    assert {*GROUPS, *COMMANDS} <= set(titles)
    for option in OPTIONS:
        assert f"| `{option.split('=')[1]}` | " in page, option


def test_every_key_has_a_meaning(writer: ModuleType) -> None:
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in writer.page().splitlines() if line.startswith("| `")]
    assert len(rows) > 300
    assert [row for row in rows if not row[-1 if len(row) == 2 else 2].strip()] == []


def test_what_a_file_says(writer: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(
        "# The base. Second sentence.\na: 1 # one\nb: {c: 2} # two\nd: # three\n  e: x # f\n"
    )
    (tmp_path / "child.yaml").write_text(
        "# A child.\n#   limoe train x=y\n# Needs b=1.\ndefaults: [base]\na: 3 # not one\n"
    )
    assert writer.summary(tmp_path / "base.yaml") == "The base."
    assert writer.summary(tmp_path / "child.yaml") == "A child. Needs b=1."
    assert writer.leaves(tmp_path / "child.yaml") == {
        "a": ("a", "3", "one"),
        "b": ("b", "{c: 2}", "two"),
        "d.e": ("d.e", "x", "f"),
    }
    table = writer.key_table("g", {n: writer.leaves(tmp_path / f"{n}.yaml") for n in ("base", "child")}, default="base")
    assert table[2] == "| `g.a` | `1` (child: `3`) | one |  |"
