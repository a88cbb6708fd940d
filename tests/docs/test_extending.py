"""docs/extending.md is true: its files, written into an empty project, do what its commands say."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.commands import FEW_IMAGES, TINY, limoe_in_this_process
from tests.helpers.paths import DOCS

PAGE = (DOCS / "extending.md").read_text()
FILES = dict(re.findall(r"^`([\w/.]+)`\n\n```(?:python|yaml)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
COMMANDS = [line for block in re.findall(r"^```sh\n(.*?)^```$", PAGE, re.M | re.S) for line in block.splitlines()]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("my_project")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def inside(project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As a user stands in the project, without a trace in this process."""
    monkeypatch.chdir(project)
    for name in ("LIMOE_CONFIG_DIR", "LIMOE_LOG_DIR", "LIMOE_RUN_ID", "LIMOE_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in {n for n in set(sys.modules) - modules if n.startswith("my_")}:
        del sys.modules[name]


def test_every_option_on_the_page_is_used_by_a_command() -> None:
    assert len(FILES) == 15
    for name in FILES:
        if name.startswith("configs/"):
            _, group, option = Path(name).with_suffix("").parts
            assert any(re.search(rf"\b{group}=\S*\b{option}\b", command) for command in COMMANDS), name


@pytest.mark.parametrize("command", COMMANDS)
def test_command(
    command: str, inside: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program, command, *words = command.split()
    assert program == "limoe"
    if command == "study":  # composes every trial; counting FLOPs would take longer than all the rest
        monkeypatch.setattr("limoe.studies.report.print_cost", lambda plan: None)
        words = [words[0], "dry_run=true"]
    small = TINY if command == "train" else []
    few = FEW_IMAGES if "experiment=scenes" in words else []
    assert limoe_in_this_process(command, *words, *small, *few, monkeypatch=monkeypatch) == 0, capsys.readouterr().err
