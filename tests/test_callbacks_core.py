"""Callbacks on the routers, in real trainings of a few steps."""

import json
import math
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from builders import Batches, quiet_trainer, tiny_batch, tiny_model
from test_lit_module import fit, module
from torch import Tensor

from limoe.callbacks.aux_loss_schedule import AuxLossSchedule, build_schedule
from limoe.callbacks.base import check_callbacks
from limoe.callbacks.priority_toggle import PriorityToggle
from limoe.callbacks.routing_health import RoutingHealth
from limoe.losses.auxiliary.base import AuxLossSet
from limoe.routing import statistics
from limoe.routing.statistics import routing_sums
from limoe.types import RouterOutput


class Watch(L.Callback):
    """What holds in each training batch and in each validation."""

    def __init__(self) -> None:
        self.factors: list[dict[str, float]] = []
        self.train: list[str] = []
        self.validation: list[tuple[int, str]] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.factors.append(dict(pl_module.aux_losses.factor))
        self.train.append(self._router(pl_module).priority.__name__)

    def on_validation_batch_start(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        router = self._router(pl_module)
        self.validation.append((trainer.global_step, (router.eval_priority or router.priority).__name__))

    def _router(self, pl_module: Any) -> Any:
        return pl_module.model.tower.blocks[1].mlp.router


# ---------------------------------------------------------------- AuxLossSchedule


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


# ---------------------------------------------------------------- PriorityToggle


def test_priority_switches_at_its_step_and_for_evaluation_apart(tmp_path: Path) -> None:
    watch = Watch()
    toggle = PriorityToggle(train={2: "first_come", 4: "random"}, eval={3: "text_first"})
    fit(module(), tmp_path, steps=6, callbacks=[toggle, watch], val_check_interval=1, num_sanity_val_steps=1)
    assert watch.train == ["bpr", "bpr", "first_come", "first_come", "random", "random"]
    # steps done so far; until step 3 evaluation does as training did last
    assert watch.validation == [
        (0, "bpr"),
        (1, "bpr"),
        (2, "first_come"),
        (3, "text_first"),
        (4, "text_first"),
        (5, "text_first"),
        (6, "text_first"),
    ]


def test_priority_switches_by_epoch(tmp_path: Path) -> None:
    watch = Watch()
    toggle = PriorityToggle(train={1: "image_first"}, unit="epoch")
    trainer = quiet_trainer(tmp_path, max_epochs=2, callbacks=[toggle, watch])
    trainer.fit(module(), train_dataloaders=Batches([tiny_batch()] * 2), val_dataloaders=Batches([tiny_batch()]))
    assert watch.train == ["bpr", "bpr", "image_first", "image_first"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"unit": "batch"}, r"unit must be 'step' or 'epoch', got 'batch'"),
        ({"train": {-1: "bpr"}}, r"train must be a map from whole numbers >= 0 to priorities, got -1"),
        ({"eval": {0: "brp"}}, r"priority must be one of bpr, .* got 'brp'"),
    ],
)
def test_bad_toggles(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PriorityToggle(**settings)


# ---------------------------------------------------------------- RoutingHealth


def health(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "routing" / "health.jsonl").read_text().splitlines()]


def test_health_lines(tmp_path: Path) -> None:
    """Every second step and the last one; two sparse layers and two modalities each."""
    trainer = fit(
        module(model=tiny_model(moe_layers=(0, 1))), tmp_path, steps=5, callbacks=[RoutingHealth(every_n_steps=2)]
    )
    lines = health(tmp_path)
    assert [(line["step"], line["modality"], line["layer"]) for line in lines] == [
        (step, modality, layer) for step in (2, 4, 5) for modality in ("image", "text") for layer in (0, 1)
    ]
    for line in lines:
        assert set(line) == {
            *("step", "layer", "modality", "assignments", "success_rate", "load", "kept_load", "load_cv"),
            *("top_share", "dead_experts", "own_experts", "top_gate"),
            *("local_entropy", "global_entropy", "effective_experts"),
        }
        assert len(line["load"]) == 4 and sum(line["load"]) == pytest.approx(1)
        assert sum(line["kept_load"]) == pytest.approx(line["success_rate"])
        # 4 images of 4 tokens; texts of 2, 3, 4 and 5 tokens
        assert line["assignments"] == {"image": 16, "text": 14}[line["modality"]]
        assert 0 <= line["success_rate"] <= 1
        assert 0 <= line["local_entropy"] <= line["global_entropy"] + 1e-6 <= math.log(4) + 2e-6
        assert line["dead_experts"] == sum(share == 0 for share in line["load"])
    logged = trainer.logged_metrics
    for line in lines[-4:]:
        key = f"router/L{line['layer']:02d}/{line['modality']}"
        names = ("success_rate", "load_cv", "top_share", "dead_experts", "own_experts")
        for name in (*names, "local_entropy", "global_entropy", "effective_experts"):
            assert logged[f"{key}/{name}"].item() == pytest.approx(line[name], rel=1e-6)
        quantiles = [logged[f"{key}/top_gate_q{q}"].item() for q in ("05", "50", "95")]
        assert quantiles == pytest.approx(line["top_gate"], rel=1e-6) == sorted(quantiles)
    for modality in ("image", "text"):
        rates = [line["success_rate"] for line in lines[-4:] if line["modality"] == modality]
        assert trainer.progress_bar_metrics[f"router/{modality}/success_rate"] == pytest.approx(sum(rates) / 2)
        assert logged[f"router/{modality}/success_rate_min"] == pytest.approx(min(rates))


def test_nothing_is_computed_between_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(routed: RouterOutput) -> Tensor:
        calls.append(routed.num_experts)
        return routing_sums(routed)

    monkeypatch.setattr(statistics, "routing_sums", counted)
    callback = RoutingHealth(every_n_steps=3)
    fit(module(), tmp_path, steps=5, callbacks=[callback])
    assert calls == [4, 4]  # steps 3 and 5, one sparse layer
    assert [(r.step, r.layer, r.modality) for r in callback.latest] == [(5, 1, "image"), (5, 1, "text")]


def test_health_is_written_once_per_optimizer_step(tmp_path: Path) -> None:
    fit(module(), tmp_path, steps=4, callbacks=[RoutingHealth(every_n_steps=2)], accumulate_grad_batches=3)
    assert [line["step"] for line in health(tmp_path)] == [2, 2, 4, 4]


def test_a_dense_model_has_no_health(tmp_path: Path) -> None:
    dense = module(model=tiny_model(moe_layers=()), aux_losses=AuxLossSet({}))
    fit(dense, tmp_path, steps=1, callbacks=[RoutingHealth(every_n_steps=1)])
    assert not (tmp_path / "routing").exists()


def test_bad_interval() -> None:
    with pytest.raises(ValueError, match=r"^every_n_steps must be >= 1, got 0"):
        RoutingHealth(every_n_steps=0)
