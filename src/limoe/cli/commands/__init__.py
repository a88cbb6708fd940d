"""The verbs of the command: one file each, found by listing this folder.

A verb is `<verb>.py` with a docstring (its first line in the list of verbs, all of it in `limoe <verb> --help`) and
`run(cfg: DictConfig) -> None`; its config is `configs/<verb>.yaml`. `POSITIONAL = "key"` lets one argument without `=`
become `key=argument`; `POSITIONAL = ["key"]` lets any number become a list. `FLAGS = {"--json": "json=true"}` gives a
verb options of its own, each short for an override. `GOES_ON = True` says that the same command, given again after an
interrupt, goes on where it stopped.
"""

import ast
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Verb:
    name: str
    help: str
    positional: str | list[str] | None
    flags: dict[str, str]
    goes_on: bool = False

    @property
    def summary(self) -> str:
        return self.help.partition("\n")[0]

    def load(self) -> Callable[..., Any]:
        """Its `run`. Imports the file, and with it whatever the verb needs."""
        return importlib.import_module(f"{__name__}.{self.name}").run


def all_verbs() -> dict[str, Verb]:
    """Verbs by name. Reads the files without importing them, so that listing stays fast."""
    files = sorted(Path(__file__).parent.glob("[!_]*.py"))
    return {file.stem: _read(file) for file in files}


def _read(file: Path) -> Verb:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    assigned = {ast.unparse(node.targets[0]): node.value for node in tree.body if isinstance(node, ast.Assign)}
    positional, flags, goes_on = (
        ast.literal_eval(assigned[name]) if name in assigned else default
        for name, default in (("POSITIONAL", None), ("FLAGS", {}), ("GOES_ON", False))
    )
    return Verb(file.stem, ast.get_docstring(tree) or "", positional, flags, goes_on)
