"""What the wheel holds: the package with its configs, templates and studies, and nothing else of the repository."""

import tomllib
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

from tests.helpers.paths import REPO


@pytest.fixture(scope="module")
def content() -> dict[str, Path]:
    """Name in the wheel: file in the repository. Nothing is built or downloaded."""
    builder = WheelBuilder(str(REPO))
    return {file.distribution_path: Path(file.path) for file in builder.recurse_included_files()}


def names(folder: str, *patterns: str) -> set[str]:
    """Files below a folder of the repository, by their path from there."""
    root = REPO / folder
    found = {path for pattern in patterns for path in root.glob(pattern) if path.is_file()}
    return {path.relative_to(root).as_posix() for path in found if "__pycache__" not in path.parts}


def test_the_package_is_whole(content: dict[str, Path]) -> None:
    code = names("src/limoe", "**/*")
    assert {"cli/main.py", "py.typed", "studies/study.html.j2"} <= code
    assert {f"limoe/{name}" for name in code} <= set(content)


def test_configs_come_along_but_not_those_of_this_machine(content: dict[str, Path]) -> None:
    configs = {name for name in names("configs", "**/*.yaml") if not name.startswith("local/")}
    assert {"train.yaml", "experiment/demo.yaml", "hydra/default.yaml"} <= configs
    assert {name.removeprefix("limoe/configs/") for name in content if name.startswith("limoe/configs/")} == configs


def test_studies_and_searches_come_along_without_pages_and_results(content: dict[str, Path]) -> None:
    """A page that came along would show images and link to tables that did not."""
    experiments = names("experiments", "*/study.yaml", "*/search.yaml")
    assert {"02_aux_losses/study.yaml", "search_recipe/search.yaml"} <= experiments
    inside = {name.removeprefix("limoe/experiments/") for name in content if name.startswith("limoe/experiments/")}
    assert inside == experiments


def test_nothing_else_comes_along(content: dict[str, Path]) -> None:
    assert {name.split("/")[0] for name in content} == {"limoe"}
    assert not [name for name in content if name.endswith((".html", ".svg", ".csv", ".md", ".pyc"))]
    assert sum(path.stat().st_size for path in content.values()) < 2_000_000


def test_the_distribution_has_a_name_of_its_own() -> None:
    """On package indexes the name limoe belongs to another project; the command and the import keep it."""
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    assert project["name"] == "limoe-template"
    assert project["scripts"] == {"limoe": "limoe.cli.main:main"}
