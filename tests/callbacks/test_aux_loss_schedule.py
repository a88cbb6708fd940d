"""Schedules of auxiliary losses, by hand and in trainings of a few steps."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest

from limoe.callbacks.aux_loss_schedule import AuxLossSchedule, build_schedule
from limoe.callbacks.base import check_callbacks
from tests.helpers.training import Watch, fit, module


@pytest.mark.parametrize(
    ("spec", "values"),
    [
        ({"kind": "constant", "value": 0.3}, {0: 0.3, 99: 0.3}),
        ({"kind": "linear", "start": 10, "end": 20}, {0: 0, 10: 0, 13: 0.3, 20: 1, 99: 1}),
        ({"kind": "linear", "start": 0, "end": 4, "start_value": 2.0, "end_value": 1.0}, {0: 2, 1: 1.75, 4: 1, 9: 1}),
        (
            {"kind": "cosine", "start": 0, "end": 6},
            {0: 0, 2: 0.25, 3: 0.5, 4: 0.75, 6: 1, 7: 1},
        ),  # (1 - cos 60 deg) / 2
        ({"kind": "window", "on": 2, "off": 4}, {1: 0, 2: 1, 3: 1, 4: 0}),
        ({"kind": "window", "on": 2}, {1: 0, 2: 1, 999: 1}),
    ],
)
def test_schedules_by_hand(spec: dict[str, Any], values: dict[int, float]) -> None:
    schedule = build_schedule("z", spec)
    assert {step: schedule(step) for step in values} == pytest.approx(values)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"kind": "step"}, r"schedules\.z\.kind must be one of constant, linear, cosine, window, got 'step'"),
        ({}, r"schedules\.z\.kind must be one of"),
        ({"kind": "linear", "start": 5, "end": 5}, r"schedules\.z\.end must be > start=5, got 5"),
        ({"kind": "linear", "start": 5}, r"schedules\.z: .*missing .*'end'"),
        ({"kind": "window", "onn": 5}, r"schedules\.z: .*unexpected keyword argument 'onn'"),
    ],
)
def test_bad_schedules(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AuxLossSchedule(schedules={"z": spec})


def test_factors_by_step_in_a_training(tmp_path: Path) -> None:
    watch = Watch()
    schedules = {"z": {"kind": "linear", "start": 1, "end": 5}, "local_text": {"kind": "window", "on": 2, "off": 3}}
    lit = module()
    fit(lit, tmp_path, steps=6, callbacks=[AuxLossSchedule(schedules=schedules), watch])
    assert [f["z"] for f in watch.factors] == pytest.approx([0, 0, 0.25, 0.5, 0.75, 1])
    assert [f["local_text"] for f in watch.factors] == [0, 0, 1, 0, 0, 0]
    assert {f["importance"] for f in watch.factors} == {1.0}


def test_steps_are_optimizer_steps(tmp_path: Path) -> None:
    watch = Watch()
    schedule = AuxLossSchedule(schedules={"z": {"kind": "linear", "start": 0, "end": 4}})
    fit(module(), tmp_path, steps=2, callbacks=[schedule, watch], accumulate_grad_batches=2)
    assert [f["z"] for f in watch.factors] == [0, 0, 0.25, 0.25]


def test_the_factor_reaches_the_loss(tmp_path: Path) -> None:
    schedule = AuxLossSchedule(
        schedules={name: {"kind": "constant", "value": 0.0} for name in module().aux_losses.terms}
    )
    trainer = fit(module(), tmp_path, steps=1, callbacks=[schedule])
    assert trainer.logged_metrics["train/loss"] == trainer.logged_metrics["train/contrastive"]
    assert trainer.logged_metrics["train/aux/z"] > 0 and trainer.logged_metrics["train/aux_factor/z"] == 0


def test_an_unknown_loss_does_not_fit_the_run() -> None:
    schedule = AuxLossSchedule(schedules={"gshard": {"kind": "constant", "value": 1.0}})
    with pytest.raises(ValueError, match=r"gshard is scheduled but not active; active losses: importance, "):
        check_callbacks([L.Callback(), schedule], module())
