"""docs/architecture.md and its figure show the rooms and the steps of the sparse layer as they are."""

import inspect
import re

from limoe.models.moe import MoE
from tests.helpers.paths import DOCS, REPO

PAGE = (DOCS / "architecture.md").read_text()


def test_the_figure_has_every_room() -> None:
    package = REPO / "src" / "limoe"
    rooms = {path.parent.name for path in package.glob("*/__init__.py")}
    loose = {path.name for path in package.glob("*.py") if not path.name.startswith("_")}
    drawn = re.findall(r'class="n">([\w.]+)<', (DOCS / "rooms.svg").read_text())
    assert len(drawn) == len(set(drawn)) and set(drawn) == rooms | loose


def test_the_sparse_layer_is_quoted_as_it_is() -> None:
    """Comments that explain more may follow in the code."""
    body = [line.strip() for line in inspect.getsource(MoE.forward).splitlines()]
    quoted = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(quoted) == 1
    lines = quoted[0].splitlines()
    assert len(lines) == 5
    for line, written in zip(lines, body[1:], strict=True):
        assert written.startswith(line)


def test_every_contract_has_what_the_page_says() -> None:
    """Each row of the table names a file and, in code marks, classes of it."""
    rows = [line for line in PAGE.splitlines() if line.startswith("| `") and "](../src/limoe" in line]
    assert len(rows) == 7
    for row in rows:
        first = row.split("|")[1]
        place = re.search(r"\]\(\.\./(src/limoe[\w/.]*)\)", first)
        assert place is not None
        path = REPO / place[1]
        files = [path] if path.is_file() else sorted(path.glob("*.py"))
        text = "".join(file.read_text() for file in files)
        for name in re.findall(r"`(\w+)`", first):
            assert f"class {name}" in text, name
