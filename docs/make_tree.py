"""Writes the tree of the sources into README.md, a line per file from its docstring: python docs/make_tree.py."""

import ast
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
PAGE = REPO / "README.md"
START, END = "<!-- tree: python docs/make_tree.py -->\n", "<!-- end of tree -->\n"
WIDTH = 120  # characters a line may have


def summary(path: Path) -> str:
    """The first sentence of a module's docstring, without its full stop."""
    text = " ".join((ast.get_docstring(ast.parse(path.read_text())) or "").split("\n\n")[0].split())
    return text.split(". ")[0].rstrip(".")


def tree(root: Path) -> str:
    """One line per module, folder by folder; the line of a folder is that of its `__init__.py`."""
    lines = []
    for folder in sorted(path.parent for path in root.rglob("__init__.py")):
        indent = "" if folder == root else "  "
        lines.append(_line(f"{folder.relative_to(root.parents[1])}/", folder / "__init__.py"))
        modules = sorted(path for path in folder.glob("*.py") if not path.name.startswith("__"))
        lines += [_line(f"{indent}  {path.name}", path) for path in modules]
    return "\n".join(lines)


def page() -> str:
    """README.md with the tree of now."""
    before, _, rest = PAGE.read_text().partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n```\n{tree(REPO / 'src' / 'limoe')}\n```\n\n{END}{after}"


def _line(name: str, path: Path) -> str:
    line = f"{name:<32} {summary(path)}".rstrip()
    return line if len(line) <= WIDTH else line[: WIDTH - 4].rsplit(" ", 1)[0].rstrip(",;:") + " ..."


if __name__ == "__main__":
    PAGE.write_text(page())
