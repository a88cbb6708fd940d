"""The tree in README.md names every source file, with the first sentence of its docstring."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from tests.helpers.paths import REPO


@pytest.fixture(scope="module")
def writer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_tree", REPO / "docs" / "make_tree.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tree_is_up_to_date(writer: ModuleType) -> None:
    assert writer.PAGE.read_text() == writer.page(), "run: python docs/make_tree.py"


def test_a_line_per_file(writer: ModuleType, tmp_path: Path) -> None:
    package = tmp_path / "src" / "pack"
    (package / "inner").mkdir(parents=True)
    files = {
        "__init__.py": "A pack.",
        "one.py": "First. Second.",
        "inner/__init__.py": "Inside",
        "inner/two.py": "x " * 99,
    }
    for name, text in files.items():
        (package / name).write_text(f'"""{text}\n\nMore."""\n')
    lines = [line.split(maxsplit=1) for line in writer.tree(package).splitlines()]
    assert lines[:3] == [["src/pack/", "A pack"], ["one.py", "First"], ["src/pack/inner/", "Inside"]]
    assert lines[3][0] == "two.py" and lines[3][1].endswith("x ...")
    assert max(map(len, writer.tree(package).splitlines())) <= writer.WIDTH
