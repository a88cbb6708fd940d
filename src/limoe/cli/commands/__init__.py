"""The commands of `limoe`: one file each, found by listing this folder.

A command is `<command>.py` with `run(cfg: DictConfig) -> None` and a docstring: its first line is shown in the list of
commands, all of it by `limoe <command> --help`; its config is `configs/<command>.yaml`. Constants of the module:
`POSITIONAL = "key"` turns one argument without `=` into `key=argument`, `POSITIONAL = ["key"]` any number of them into
a list; `FLAGS = {"--json": "json=true"}` defines options of the command, each an abbreviation of an override;
`GOES_ON = True`: the same command, given again after an interrupt, continues where it stopped.
`run` raises `ConfigError` for refused settings, before it writes, and `DataError` for missing or broken files.
"""

import ast
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Command:
    """One command, read from its file without importing it."""

    name: str
    help: str
    positional: str | list[str] | None
    flags: dict[str, str]
    goes_on: bool = False

    @property
    def summary(self) -> str:
        return self.help.partition("\n")[0]

    def load(self) -> Callable[..., Any]:
        """Import the file, with all that the command needs, and return its `run`."""
        return importlib.import_module(f"{__name__}.{self.name}").run


def all_commands() -> dict[str, Command]:
    """Commands by name; the files are not imported, so that listing is fast."""
    files = sorted(Path(__file__).parent.glob("[!_]*.py"))
    return {file.stem: _read(file) for file in files}


def _read(file: Path) -> Command:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    assigned = {ast.unparse(node.targets[0]): node.value for node in tree.body if isinstance(node, ast.Assign)}
    positional, flags, goes_on = (
        ast.literal_eval(assigned[name]) if name in assigned else default
        for name, default in (("POSITIONAL", None), ("FLAGS", {}), ("GOES_ON", False))
    )
    return Command(file.stem, ast.get_docstring(tree) or "", positional, flags, goes_on)
