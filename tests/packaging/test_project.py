"""The project files agree with each other and with what is installed."""

import os
import re
import shutil
import subprocess
import time
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

import limoe
from tests.helpers.paths import REPO

# lightning 2.6.2 and 2.6.3 were malicious uploads (GHSA-w37p-236h-pfx3); Hydra before 1.3.8 calls targets that it now
# refuses; Pillow before 12.3 has open CVEs for crafted images.
SECURITY_FLOORS = {"lightning": "2.6.6", "hydra-core": "1.3.8", "torch": "2.10", "pillow": "12.3"}


def pyproject() -> dict:
    return tomllib.loads((REPO / "pyproject.toml").read_text())


def requirements(*extras: str) -> list[Requirement]:
    project = pyproject()["project"]
    lines = project["dependencies"] + [line for extra in extras for line in project["optional-dependencies"][extra]]
    return [r for r in map(Requirement, lines) if r.name != project["name"]]


def all_extras() -> list[str]:
    return list(pyproject()["project"]["optional-dependencies"])


def pins() -> dict[str, Version]:
    lines = [line for line in (REPO / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    found: dict[str, Version] = {}
    for line in lines:
        name, separator, pin = line.partition("==")
        assert separator, line
        found[canonicalize_name(name)] = Version(pin)
    return found


@pytest.mark.parametrize("requirement", requirements(*all_extras()), ids=lambda r: r.name)
def test_every_requirement_is_pinned_inside_its_range(requirement: Requirement) -> None:
    pin = pins()[canonicalize_name(requirement.name)]
    assert pin in requirement.specifier
    assert pin.local is None  # 2.13.0, not 2.13.0+cpu: the pin must fit every platform


def test_pins_are_sorted_and_leave_the_installer_alone() -> None:
    names = list(pins())
    assert names == sorted(names)
    assert not {"pip", "setuptools", "limoe", "limoe-template", "pytorch_lightning"} & set(names)


@pytest.mark.parametrize(("name", "floor"), SECURITY_FLOORS.items())
def test_security_floors(name: str, floor: str) -> None:
    assert Version(version(name)) >= Version(floor)
    requirement = next(r for r in requirements() if r.name == name)
    below = [s for s in requirement.specifier if s.operator == ">="]
    assert len(below) == 1
    assert Version(below[0].version) >= Version(floor)


def test_conda_environment_is_in_step() -> None:
    environment = yaml.safe_load((REPO / "environment.yml").read_text())
    *plain, nested = environment["dependencies"]
    python = next(line for line in plain if line.startswith("python="))
    assert Version(python.partition("=")[2]) in SpecifierSet(pyproject()["project"]["requires-python"])
    assert environment["name"] == "limoe"
    assert environment["channels"] == ["conda-forge", "nodefaults"]
    assert {re.split("[=<>]", line)[0] for line in plain} == {"python", "pip", "make"}  # every package comes by pip
    constraints, install = nested["pip"]
    assert constraints == "-c constraints.txt"
    extras = re.fullmatch(r"-e \.\[(.+)\]", install)
    assert extras is not None
    assert set(extras[1].split(",")) <= set(pyproject()["project"]["optional-dependencies"])


def test_one_version_and_one_licence() -> None:
    citation = yaml.safe_load((REPO / "CITATION.cff").read_text())
    assert citation["version"] == limoe.__version__
    assert citation["title"].startswith(pyproject()["project"]["name"])
    assert citation["license"] == pyproject()["project"]["license"] == "Apache-2.0"
    assert "Apache License\n" in (REPO / "LICENSE").read_text()
    assert "[Unreleased]" in (REPO / "CHANGELOG.md").read_text()


def test_make_reads_the_torch_pin() -> None:
    """The Makefile takes `torch==...` from constraints.txt with sed; this is the same expression."""
    lines = re.findall(r"^(torch==\S*)", (REPO / "constraints.txt").read_text(), flags=re.MULTILINE)
    assert lines == [f"torch=={pins()['torch']}"]


def test_pre_commit_uses_the_tools_of_the_environment() -> None:
    """No hook downloads anything, and none differs from `make lint`."""
    config = yaml.safe_load((REPO / ".pre-commit-config.yaml").read_text())
    assert [repo["repo"] for repo in config["repos"]] == ["local"]
    entries = [hook["entry"] for hook in config["repos"][0]["hooks"]]
    assert [entry.split()[0] for entry in entries] == [".venv/bin/ruff", ".venv/bin/ruff", ".venv/bin/mypy"]


def test_checks_are_the_make_targets() -> None:
    script = (REPO / ".ci" / "run").read_text()
    assert (REPO / ".ci" / "run").stat().st_mode & 0o111
    steps = [line for line in script.splitlines() if line.startswith("make ")]
    assert steps == ["make lint", 'make test PYTEST_ARGS="--durations=10 ${PYTEST_ARGS:--n 2}"']
    workflow = yaml.safe_load((REPO / ".github" / "workflows" / "ci.yml").read_text())
    steps = workflow["jobs"]["check"]["steps"]
    assert [step["run"] for step in steps if "run" in step] == [".ci/run"]


@pytest.mark.parametrize(
    ("target", "extras"), [("demo", ""), ("install", "[dev]"), ("test", "[dev]"), ("lint", "[dev]")]
)
def test_a_target_installs_what_it_needs(target: str, extras: str, tmp_path: Path) -> None:
    """`make demo` has the runtime alone; the tools come with the first target that needs them."""
    for name in ("Makefile", "constraints.txt", "pyproject.toml"):
        shutil.copy(REPO / name, tmp_path)
    done = subprocess.run(["make", "-n", target], cwd=tmp_path, capture_output=True, text=True, check=True)
    installs = re.findall(r"pip install .*? -c constraints.txt (?:-e )?('[^']+'|\.)", done.stdout)
    expected = [f"'torch=={pins()['torch']}'", "."]  # torch first and alone
    assert installs == expected + ([f"'.{extras}'"] if extras else [])


def test_make_installs_nothing_twice(tmp_path: Path) -> None:
    for name in ("Makefile", "constraints.txt", "pyproject.toml"):
        shutil.copy(REPO / name, tmp_path)
    (tmp_path / ".venv").mkdir()
    for stamp in (".runtime", ".dev"):
        (tmp_path / ".venv" / stamp).touch()
    command = ["make", "-n", "test"]
    assert "pip install" not in subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    later = time.time() + 10
    os.utime(tmp_path / "constraints.txt", (later, later))
    assert "pip install" in subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout


def test_tests_run_in_a_fixed_order_unless_asked() -> None:
    """The plugin that shuffles them is installed, and off."""
    options = pyproject()["tool"]["pytest"]["ini_options"]["addopts"]
    assert options[options.index("-p") + 1] == "no:randomly"
