"""Shared by all tests: one thread, a fixed seed, real data, a summary of skips."""

import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

from tests.helpers.paths import REPO

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Indexes of read-only data are built once per session and leave nothing behind."""
    monkeypatch.setenv("LIMOE_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(autouse=True)
def own_search_path() -> Iterator[None]:
    """A command that runs in the process of the tests adds its `experiments` to Hydra's search path for good."""
    plugins = Plugins.instance().plugin_type_to_subclass_list[SearchPathPlugin]
    before = list(plugins)
    yield
    plugins[:] = before


@pytest.fixture
def shared() -> Path:
    """Real and corrupt data: the folder LIMOE_SHARED, or `shared` beside the repository."""
    beside = REPO.parent / "shared"
    folder = Path(os.environ.get("LIMOE_SHARED", beside))
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is no folder (set LIMOE_SHARED)")
    return folder


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line that says how many tests were skipped for which reason."""
    reasons: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", []):
        _, _, reason = report.longrepr  # file, line, "Skipped: reason"
        reasons[reason.removeprefix("Skipped: ")] += 1
    if reasons:
        listed = "; ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        terminalreporter.write_line(f"skipped: {listed}")
