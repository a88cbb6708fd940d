"""What the code imports and what pyproject.toml declares are the same, in both directions and per extra."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.helpers.paths import REPO

# Distributions whose import name is another one, where they may be missing from the environment of the tests.
DISTRIBUTIONS = {"open_clip": "open-clip-torch"}
# Modules that import a package which the rest of their own package does without.
BEHIND = {"rich.markdown": "markdown_it"}
# Declared and used, but imported by no file of ours.
NOT_IMPORTED = {
    "tensorboard": "Lightning's TensorBoardLogger writes with it",
    "hydra-joblib-launcher": "a plugin of Hydra: hydra/launcher=joblib",
    "hydra-submitit-launcher": "a plugin of Hydra: hydra/launcher=submitit_slurm",
    "pytest-xdist": "a plugin of pytest: -n",
    "pytest-timeout": "a plugin of pytest: timeout",
    "pytest-cov": "a plugin of pytest: --cov",
    "pytest-randomly": "a plugin of pytest: -p randomly",
    "pandas": "optuna's trials_dataframe builds its table with it",
    "beartype": "the type checker of jaxtyping's plugin of pytest",
    "ruff": "a command",
    "mypy": "a command",
    "types-pyyaml": "read by mypy",
    "pre-commit": "a command",
}


class Use(NamedTuple):
    """A package that a file needs. `always`: whoever imports the file imports the package too, with no way round it.

    `guarded`: where the package is missing the file knows, and goes on or says so.
    """

    package: str
    always: bool
    place: str
    guarded: bool = False


class Uses(ast.NodeVisitor):
    """All imports of a file: statements, `import_module("name")`, and which of them stand in a function or a `try`."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.found: list[Use] = []
        self._functions = 0  # around the current node
        self._guards = 0

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._add(alias.name, node.lineno)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if node.level == 0 and node.module is not None:
            self._add(node.module, node.lineno)

    def visit_Call(self, node: ast.Call) -> None:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in ("import_module", "importorskip") and node.args and isinstance(node.args[0], ast.Constant):
            self._guards += 1
            self._add(str(node.args[0].value), node.lineno)
            self._guards -= 1
        self.generic_visit(node)

    def visit_Try(self, node: ast.Try) -> None:
        """Only the body of a `try` that catches a missing package is a guard."""
        caught = {name.id for handler in node.handlers for name in ast.walk(handler) if isinstance(name, ast.Name)}
        guards = bool(caught & {"ImportError", "ModuleNotFoundError"})
        self._guards += guards
        for child in node.body:
            self.visit(child)
        self._guards -= guards
        for outside in [*node.handlers, *node.orelse, *node.finalbody]:
            self.visit(outside)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._functions += 1
        self.generic_visit(node)
        self._functions -= 1

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_If(self, node: ast.If) -> None:
        """`if TYPE_CHECKING:` runs for mypy alone."""
        typing_only = "TYPE_CHECKING" in ast.unparse(node.test)
        self._guards += typing_only
        self.generic_visit(node)
        self._guards -= typing_only

    def _add(self, module: str, line: int) -> None:
        always, guarded = self._functions + self._guards == 0, self._guards > 0
        packages = [module.partition(".")[0], *(own for name, own in BEHIND.items() if module == name)]
        self.found += [Use(package, always, f"{self.place}:{line}", guarded) for package in packages]


def uses_of(text: str, place: str) -> list[Use]:
    visitor = Uses(place)
    visitor.visit(ast.parse(text))
    return visitor.found


@cache
def uses_in(folder: str) -> tuple[Use, ...]:
    """Third-party packages that the Python files of a folder import, and those that its YAML files point at."""
    return tuple(_uses_in(folder))


def _uses_in(folder: str) -> Iterator[Use]:
    own = {"limoe", "benchmarks", "tests"}
    for path in sorted((REPO / folder).rglob("*.py")):
        for use in uses_of(path.read_text(), str(path.relative_to(REPO))):
            if use.package not in own and use.package not in sys.stdlib_module_names:
                yield use
    for path in sorted((REPO / folder).rglob("*.yaml")):
        for package in re.findall(r"_target_: *['\"]?(\w+)\.", path.read_text()):
            if package not in own and package not in sys.stdlib_module_names:
                yield Use(package, False, str(path.relative_to(REPO)), guarded=True)  # limoe.config.targets says so


INSTALLED = packages_distributions()  # seconds, so once


def distribution(package: str) -> set[str]:
    """Distributions that may bring a package; one that is not installed is taken to be called like its package."""
    if package in DISTRIBUTIONS:
        return {DISTRIBUTIONS[package]}
    found = INSTALLED.get(package, [package])
    return {canonicalize_name(name) for name in found}


PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
EXTRAS = sorted(PROJECT["optional-dependencies"])


def declared(*extras: str) -> set[str]:
    """Distributions of the runtime and of some extras, those that an extra includes among them."""
    lines = list(PROJECT["dependencies"])
    for extra in extras:
        lines += PROJECT["optional-dependencies"][extra]
    names = set()
    for requirement in map(Requirement, lines):
        if requirement.name == PROJECT["name"]:
            names |= declared(*requirement.extras)
        else:
            names.add(canonicalize_name(requirement.name))
    return names


def undeclared(uses: Iterable[Use], names: set[str]) -> list[str]:
    return [f"{use.place}: {use.package}" for use in uses if not distribution(use.package) & names]


@pytest.mark.parametrize("folder", ["src", "configs"])
def test_limoe_declares_what_it_imports(folder: str) -> None:
    """In the runtime, or in an extra for users."""
    extras = [extra for extra in EXTRAS if extra not in ("dev", "peers")]
    assert undeclared(uses_in(folder), declared(*extras)) == []


# Imports modules where packages are missing; prints those that say so.
WITHOUT = """
import importlib, sys
for package in sys.argv[1].split(","):
    sys.modules[package] = None
from limoe.errors import LimoeError
for module in sys.argv[2:]:
    try:
        importlib.import_module(module)
    except LimoeError as error:
        print(f"{module}: {error}")
"""


def test_the_runtime_is_enough() -> None:
    """Where all extras are missing, a module of limoe can be imported, or says in one line which package it needs."""
    missing = {use.package for use in uses_in("src") if not distribution(use.package) & declared()}
    paths = [path.relative_to(REPO / "src").with_suffix("") for path in (REPO / "src").rglob("*.py")]
    modules = sorted(".".join(path.parts) for path in paths if path.name not in ("__init__", "__main__"))
    command = [sys.executable, "-c", WITHOUT, ",".join(sorted(missing)), *modules]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said and all(re.search(r": .+ needs? the package \w+: ", line) for line in said), said
    assert not any(
        line.startswith(("limoe.cli.main", "limoe.cli.commands.train", "limoe.checkpoints.pretrained")) for line in said
    )


def test_a_function_that_imports_a_package_of_an_extra_knows_that_it_may_be_missing() -> None:
    """A command of the base install, such as `limoe info`, would end in a traceback otherwise."""
    in_functions = [use for use in uses_in("src") if not use.always and not use.guarded]
    assert in_functions and undeclared(in_functions, declared()) == []


@pytest.mark.parametrize("folder", ["tests", "docs", "benchmarks"])
def test_dev_declares_what_tests_and_tools_import(folder: str) -> None:
    """With `make install` alone; only what a benchmark compares with may be missing."""
    assert undeclared((use for use in uses_in(folder) if use.always), declared("dev")) == []
    assert undeclared(uses_in(folder), declared("dev", "peers")) == []


def used(*folders: str) -> set[str]:
    return {name for folder in folders for use in uses_in(folder) for name in distribution(use.package)}


def test_the_runtime_declares_nothing_else() -> None:
    assert declared() - used("src", "configs") - set(NOT_IMPORTED) == set()


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_declares_nothing_else(extra: str) -> None:
    folders = {"dev": ("tests", "docs", "benchmarks"), "peers": ("benchmarks",)}.get(extra, ("src", "configs"))
    lines = PROJECT["optional-dependencies"][extra]
    own = {canonicalize_name(Requirement(line).name) for line in lines} - {PROJECT["name"]}
    assert own - used(*folders) - set(NOT_IMPORTED) == set()
    assert own & declared() == set()  # what every run needs belongs to no extra


def test_exceptions_are_still_needed() -> None:
    imported = used("src", "configs", "tests", "docs", "benchmarks")
    assert set(NOT_IMPORTED) <= declared(*EXTRAS)
    assert set(NOT_IMPORTED) & imported == set()
    assert set(DISTRIBUTIONS) <= {use.package for use in uses_in("benchmarks")}


def test_the_rules_can_fail() -> None:
    code = """
import a.b
from c import d
if TYPE_CHECKING:
    import e
try:
    import f
except ImportError:
    import g
try:
    import h
except ValueError:
    pass
def function():
    from i import j
    from rich.markdown import Markdown
importlib.import_module("k.l")
from .m import n
"""
    uses = uses_of(code, "x.py")
    always = dict.fromkeys("acgh", True)
    assert {use.package: use.always for use in uses} == always | dict.fromkeys([*"efik", "rich", "markdown_it"], False)
    assert [use.package for use in uses if use.guarded] == ["e", "f", "k"]
    missing = [Use("nowhere", True, "x.py:1"), Use("torch", True, "x.py:2")]
    assert undeclared(missing, declared()) == ["x.py:1: nowhere"]
    assert "pytest" in declared("dev") and "pytest" not in declared() and "optuna" in declared("dev")


def texts() -> Iterator[Path]:
    """What people read or see as a message."""
    suffixes = (".py", ".md", ".yaml", ".yml", ".toml", ".j2", ".cff", ".txt")
    for folder in ("src", "configs", "docs", "experiments", "tests", "benchmarks"):
        yield from (path for path in sorted((REPO / folder).rglob("*")) if path.suffix in suffixes)
    yield from (path for path in sorted(REPO.iterdir()) if path.suffix in suffixes or path.name == "Makefile")


def test_no_text_says_to_install_the_package_of_another_project() -> None:
    """On package indexes the name limoe belongs to another project."""
    stranger = re.compile(r"pip3? install[^\n`]*?[\s'\"]limoe(?!-template)\b(?![/.])|[\s'\"`]limoe\\?\[[a-z,]+\\?\]")
    assert stranger.search("needs pip install 'limoe[tune]'")
    assert stranger.search("pip install -U limoe")
    assert not stranger.search("pip install -c constraints.txt -e '.[dev]'")
    found = {
        str(path.relative_to(REPO)): match[0]
        for path in texts()
        if path != Path(__file__).resolve() and (match := stranger.search(path.read_text())) is not None
    }
    assert found == {}
