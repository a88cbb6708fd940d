"""Every YAML of the group `callbacks` builds; those that are not in `default` work added to it."""

from pathlib import Path

import pytest
from lightning.pytorch import Callback

import limoe.callbacks
from limoe.build import build_callbacks
from limoe.config.checks import check
from tests.helpers.configs import composed
from tests.helpers.paths import CONFIGS

NAMES = sorted(path.stem for path in (CONFIGS / "callbacks").glob("*.yaml"))
DEFAULT = {
    "progress",
    "routing_health",
    "zero_shot",
    "retrieval",
    "sample_predictions",
    "checkpoint",
    "lr_monitor",
    "bad_samples",
    "non_finite_guard",
}


@pytest.mark.parametrize("name", NAMES)
def test_builds_alone_and_beside_the_default(name: str) -> None:
    alone = composed(f"callbacks={name}")
    expected = {"default": DEFAULT, "none": set()}.get(name, {name})
    assert set(alone.callbacks) == expected
    cfg = composed(f"callbacks=[default,{name}]")
    check(cfg)
    built = build_callbacks(cfg)
    assert len(built) == len(DEFAULT | expected) and all(isinstance(callback, Callback) for callback in built)


def test_every_own_callback_has_a_yaml() -> None:
    files = {path.stem for path in Path(limoe.callbacks.__path__[0]).glob("*.py")}
    shared = {"__init__", "base", "task_validation"}  # what several of them derive from
    assert files - shared <= set(NAMES)
