"""Imports only go down, nothing imports in circles, files and functions stay short, no test imports a test."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import limoe
from tests.helpers.paths import REPO

PACKAGE = Path(limoe.__file__).parent
# From the ground up. A unit is a file or a folder right below limoe/; it may import units of lower floors only.
FLOORS = (
    {"_compat", "types", "errors", "files", "nn", "parallel"},
    {"routing", "models", "losses", "data"},  # siblings: they meet in types.py and in the config
    {"accounting", "config", "training"},
    {"evaluation", "runs"},
    {"callbacks", "reporting"},
    {"atlas", "checkpoints"},
    {"build"},
    {"studies"},
    {"search"},
    {"cli"},
    {"__main__"},
)
STRANGERS = "cli.commands."  # modules below it do not import each other either
MAX_FILE_LINES, MAX_FUNCTION_LINES = 300, 50

Edge = tuple[str, str]


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    """`routing.top_k` for limoe/routing/top_k.py, `routing` for its __init__, empty for limoe itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(tree: ast.AST) -> Iterator[str]:
    """limoe modules that are imported anywhere in a file, also inside functions, without the leading `limoe`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are written in full"
            if node.module == "limoe" or (node.module or "").startswith("limoe."):
                for alias in node.names:
                    yield _existing(f"{node.module}.{alias.name}")
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("limoe."):
                    yield _existing(alias.name)


def _existing(dotted: str) -> str:
    """The longest front part of a dotted name that is a module: `from limoe.errors import require` is `errors`."""
    parts = dotted.split(".")[1:]
    while parts:
        path = PACKAGE.joinpath(*parts)
        if path.with_suffix(".py").is_file() or path.is_dir():
            break
        parts.pop()
    return ".".join(parts)


def edges() -> list[Edge]:
    return [(module_name(path), name) for path in sources() for name in imported(ast.parse(path.read_text())) if name]


def unit(module: str) -> str:
    return module.partition(".")[0]


def violations(imports: list[Edge]) -> list[str]:
    """Imports between units that do not go down, and imports between strangers."""
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    found = []
    for importer, module in imports:
        above, below = unit(importer), unit(module)
        if above == below:
            is_wrong = importer.startswith(STRANGERS) and module.startswith(STRANGERS)
        else:
            is_wrong = above != "" and floor[above] <= floor[below]
        if is_wrong:
            found.append(f"{importer} imports {module}")
    return found


def test_few_files_lie_outside_of_the_rooms() -> None:
    loose = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    assert len(loose) <= 6, loose


def test_every_unit_has_a_floor() -> None:
    units = {unit(module_name(path)) for path in sources()} - {""}
    assert units <= set().union(*FLOORS)
    assert sum(map(len, FLOORS)) == len(set().union(*FLOORS))


def test_imports_only_go_down() -> None:
    assert violations(edges()) == []


def test_the_package_itself_imports_the_ground_floor_only() -> None:
    assert {module for importer, module in edges() if importer == ""} <= FLOORS[0]


def test_no_circles() -> None:
    graph: dict[str, set[str]] = {}
    for importer, module in edges():
        graph.setdefault(importer, set()).add(module)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"modules import each other in a circle: {error.args[1]}")


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_length(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_FILE_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < MAX_FUNCTION_LINES, f"{node.name} is too long"


def imports_beyond_helpers(code: str) -> list[str]:
    """Imports of a file of tests from other tests: all below `tests` that is not in `tests.helpers`, or relative."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom):
            origin = "." * node.level + (node.module or "")
            found += [f"{origin}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return [name for name in found if name.startswith((".", "test")) and not name.startswith("tests.helpers.")]


TESTS = sorted((REPO / "tests").rglob("*.py"))


def test_no_test_imports_a_test() -> None:
    """What tests share lies in `tests/helpers`."""
    found = {str(path.relative_to(REPO)): imports_beyond_helpers(path.read_text()) for path in TESTS}
    assert {path: names for path, names in found.items() if names} == {}


def test_every_folder_of_tests_is_a_package() -> None:
    """Files of one name in two folders are told apart by the packages they lie in."""
    assert [path for path in TESTS if not (path.parent / "__init__.py").is_file()] == []


def test_the_rules_can_fail() -> None:
    code = (
        "def f():\n    from limoe.routing.soft import SoftRouter\n    import limoe.types\n    from limoe import build\n"
    )
    assert list(imported(ast.parse(code))) == ["routing.soft", "types", "build"]
    bad = [
        ("models.moe", "routing.soft"),
        ("types", "models.moe"),
        ("cli.commands.train", "cli.commands.eval"),
        ("errors", "types"),
    ]
    assert len(violations(bad)) == len(bad)
    assert (
        violations(
            [
                ("routing.soft", "routing.base"),
                ("cli.main", "cli.commands"),
                ("training.lit_module", "losses.auxiliary.base"),
            ]
        )
        == []
    )
    shared = "from tests.helpers.builders import tiny_model\nfrom tests.helpers import oracle\n"
    assert imports_beyond_helpers(shared) == []
    code = "from tests.models.test_moe import moe\ndef f():\n    from . import test_moe\nimport tests.models.test_moe\n"
    assert len(imports_beyond_helpers(code)) == 3
