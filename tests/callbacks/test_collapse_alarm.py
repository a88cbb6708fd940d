"""Alarms in real trainings, with a router that sends all text to one expert when told to."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import Tensor, nn

from limoe.callbacks.collapse_alarm import CollapseAlarm, target_experts
from limoe.callbacks.progress import Progress
from limoe.callbacks.routing_health import RoutingHealth
from limoe.cli.commands import train
from limoe.losses.auxiliary.base import AuxLossSet
from limoe.losses.auxiliary.classic import ZLoss
from limoe.losses.auxiliary.entropy import GlobalEntropy
from limoe.routing.base import Router, Usage
from limoe.runs.record import RunRecord
from limoe.training.lit_module import LIMoEModule
from limoe.types import TEXT, Dispatcher, PackedTokens, RouterOutput
from tests.helpers.builders import Batches, quiet_trainer, router_output, slot_dispatcher, tiny_batch, tiny_model
from tests.helpers.training import aux_losses, fit, module


class CraftedRouter(Router):
    """Tokens take the experts in turn. `collapsed`: all text is sure of expert 2; `dropped`: all text is dropped."""

    def __init__(self, dim: int, *, num_experts: int) -> None:
        super().__init__(num_experts=num_experts)
        self.weight = nn.Parameter(torch.zeros(num_experts, dim))
        self.collapsed = self.dropped = False

    depends_on_batch = False

    def usage(self, lengths: Any, *, pairs: int) -> Usage:
        raise NotImplementedError

    def forward(self, x: Tensor, packed: PackedTokens) -> tuple[Dispatcher, RouterOutput]:
        num_experts, is_text = len(self.weight), packed.modality == TEXT
        expert = torch.arange(len(x)) % num_experts
        if self.collapsed:
            expert = torch.where(is_text, 2, expert)
        logits = F.linear(x, self.weight) + 9.0 * F.one_hot(expert, num_experts)
        kept = (packed.valid & ~(is_text & self.dropped))[:, None]
        said = {"modality": packed.modality, "valid": packed.valid, "kept": kept, "noise_std": 1 / num_experts}
        routing = router_output(logits, **said)
        dispatcher, _ = slot_dispatcher(
            routing.expert_index,
            gate=routing.gate,
            capacity=None,
            score=routing.gate[:, 0],
            group=torch.zeros_like(packed.modality),
            valid=packed.valid,
            num_experts=num_experts,
            num_groups=1,
        )
        return dispatcher, routing


class Script(L.Callback):
    """Sets attributes of the router before the batch that becomes step `step`."""

    def __init__(self, changes: dict[int, dict[str, bool]]) -> None:
        self.changes = changes

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        for name, value in self.changes.get(trainer.global_step + 1, {}).items():
            setattr(pl_module.model.tower.blocks[1].mlp.router, name, value)


def crafted(*, num_experts: int = 4, **changes: Any) -> LIMoEModule:
    model = tiny_model(num_experts=num_experts)
    model.tower.blocks[1].mlp.router = CraftedRouter(16, num_experts=num_experts)
    return module(model=model, **changes)


def watch(
    folder: Path,
    *,
    changes: dict[int, dict[str, bool]],
    steps: int = 12,
    lit: LIMoEModule | None = None,
    **settings: Any,
) -> tuple[L.Trainer, CollapseAlarm]:
    """Records every second step; two in a row make an alarm."""
    alarm = CollapseAlarm(**{"patience": 2, **settings})
    callbacks = [Script(changes), RoutingHealth(every_n_steps=2), alarm]
    return fit(lit or crafted(), folder, steps=steps, callbacks=callbacks), alarm


def alarms(folder: Path) -> list[dict[str, Any]]:
    path = folder / "routing" / "alarms.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_healthy_run_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, alarm = watch(tmp_path, changes={}, action="stop")
    assert alarms(tmp_path) == [] and alarm.stop_reason is None and "alarm" not in capsys.readouterr().out


def test_a_warning_says_who_where_since_when_and_what_to_raise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Text collapses from step 5: records 6 and 8 show it, and the warning of step 8 is the only one."""
    trainer, _ = watch(tmp_path, changes={5: {"collapsed": True}})
    (alarm,) = alarms(tmp_path)
    place = {key: alarm[key] for key in ("step", "since", "layer", "modality", "term")}
    assert place == {"step": 8, "since": 6, "layer": 1, "modality": "text", "term": "global_text"}
    # 4 experts: S = max(2, round(0.28 * 4)) = 2. Effective experts of logits (9, 0, 0, 0): close to 1
    assert alarm["signs"] == ["1.0 effective experts < 0.6 x 2", "100% of its tokens on expert 2"]
    said = (
        "text collapses in layer 1 since step 6: 1.0 effective experts < 0.6 x 2, 100% of its tokens on expert 2; "
        "raise aux_loss.global_text.weight"
    )
    assert alarm["message"] == said
    assert f"collapse alarm at step 8: {said}\n" in capsys.readouterr().out
    assert trainer.global_step == 12


def test_a_new_collapse_after_a_recovery_is_a_new_alarm(tmp_path: Path) -> None:
    watch(tmp_path, changes={1: {"collapsed": True}, 5: {"collapsed": False}, 9: {"collapsed": True}})
    assert [(alarm["since"], alarm["step"]) for alarm in alarms(tmp_path)] == [(2, 4), (10, 12)]


def test_one_bad_record_is_no_alarm(tmp_path: Path) -> None:
    watch(
        tmp_path,
        changes={3: {"collapsed": True}, 5: {"collapsed": False}, 7: {"collapsed": True}, 9: {"collapsed": False}},
    )
    assert alarms(tmp_path) == []


def test_text_without_slots_wants_confidence(tmp_path: Path) -> None:
    watch(tmp_path, changes={1: {"dropped": True}})
    (alarm,) = alarms(tmp_path)
    assert (alarm["signs"], alarm["term"]) == (["success rate 0% < 50%"], "local_text")
    assert alarm["message"].endswith("; raise aux_loss.local_text.weight")


def test_a_loss_that_the_run_has_not_is_named(tmp_path: Path) -> None:
    lit = crafted(aux_losses=AuxLossSet({"z": ZLoss()}))
    watch(tmp_path, changes={1: {"collapsed": True}}, lit=lit, action="boost")
    assert [alarm["message"].partition("; ")[2] for alarm in alarms(tmp_path)] == (
        ["add the loss global_text: aux_loss=[...,global_text]"] * 3
    )
    assert lit.aux_losses.boost == {"z": 1.0}


def test_stop_ends_the_training_in_order(tmp_path: Path) -> None:
    """Alarm at step 8: no ninth step, but a last validation."""
    trainer, alarm = watch(tmp_path, changes={5: {"collapsed": True}}, action="stop")
    assert trainer.global_step == 8 and "val/loss" in trainer.callback_metrics
    assert alarm.stop_reason is not None
    assert alarm.stop_reason.startswith("collapse alarm: text collapses in layer 1 since step 6: ")


class Data(L.LightningDataModule):
    """Ready batches, none of them bad, and a tokenizer that only wants to be saved."""

    class tokenizer:
        save = staticmethod(Path.touch)

    def bad_counts(self) -> dict[str, dict[str, int]]:
        return {}

    def train_dataloader(self) -> Batches:
        return Batches([tiny_batch(seed=i) for i in range(12)])

    def val_dataloader(self) -> Batches:
        return Batches([tiny_batch()])


@pytest.mark.parametrize(("action", "status"), [("stop", "stopped"), ("warn", "done")])
def test_run_json_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: str, status: str) -> None:
    folder = tmp_path / "run"
    callbacks = [
        Script({1: {"collapsed": True}}),
        RoutingHealth(every_n_steps=2),
        CollapseAlarm(action=action, patience=2),
    ]
    parts: dict[str, Callable[..., Any]] = {
        "build_data": lambda cfg: Data(),
        "build_tasks": lambda cfg: {},
        "build_module": lambda cfg: crafted(),
        "build_trainer": lambda cfg, tasks: quiet_trainer(folder, max_steps=6, callbacks=callbacks),
        "initialise": lambda cfg, model, tokenizer: None,
    }
    for name, part in parts.items():
        monkeypatch.setattr(train, name, part)
    with RunRecord(folder, config_hash="x", seed=0, overrides=[]) as record:
        train.fit(OmegaConf.create({"seed": 0, "ckpt_path": None}), record=record)
    content = json.loads((folder / "run.json").read_text())
    assert content["status"] == status
    reason = "collapse alarm: text collapses in layer 1 since step 2: "
    assert content["error"].startswith(reason) if action == "stop" else content["error"] is None
    assert content["metrics"]["train/loss"] > 0


def test_boost_multiplies_up_to_its_limit_and_is_logged(tmp_path: Path) -> None:
    """Records 2 to 12, an alarm at 4, 8 and 12: 3, then 5 instead of 9, and no more."""
    lit = crafted()
    trainer, _ = watch(tmp_path, changes={1: {"collapsed": True}}, lit=lit, action="boost", boost=3.0, max_boost=5.0)
    said = [alarm["message"].partition("; ")[2] for alarm in alarms(tmp_path)]
    assert said == [f"aux_loss.global_text now weighs {f} times its configured weight" for f in (3, 5, 5)]
    assert lit.aux_losses.boost == dict.fromkeys(lit.aux_losses.terms, 1.0) | {"global_text": 5.0}
    logged = trainer.logged_metrics
    assert logged["train/aux_boost/global_text"] == 5
    expected = (
        0.04 / 5 * 5 * logged["train/aux/global_text"].item()
    )  # five losses; the boost of step 8 holds in step 12
    assert logged["train/aux_weighted/global_text"].item() == pytest.approx(expected)


@pytest.mark.filterwarnings("ignore:.*dataloader is not resumable")
def test_boosts_survive_a_resume(tmp_path: Path) -> None:
    trainer, _ = watch(tmp_path, changes={1: {"collapsed": True}}, action="boost", steps=4)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    lit = crafted()
    again = quiet_trainer(
        tmp_path, max_steps=5, callbacks=[RoutingHealth(every_n_steps=2), CollapseAlarm(action="boost", patience=2)]
    )
    batches = Batches([tiny_batch(seed=i) for i in range(5)])
    again.fit(lit, batches, Batches([tiny_batch()]), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert again.global_step == 5 and lit.aux_losses.boost["global_text"] == 2.0
    assert again.logged_metrics["train/aux_boost/global_text"] == 2.0


def test_the_order_of_the_callbacks_does_not_matter(tmp_path: Path) -> None:
    script, health = Script({1: {"collapsed": True}}), RoutingHealth(every_n_steps=2)
    fit(crafted(), tmp_path, steps=6, callbacks=[CollapseAlarm(patience=2), health, script])
    assert [(alarm["since"], alarm["step"]) for alarm in alarms(tmp_path)] == [(2, 4)]


def test_alarms_pass_through_the_progress_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    callbacks = [
        Progress(),
        Script({1: {"collapsed": True}}),
        RoutingHealth(every_n_steps=2),
        CollapseAlarm(patience=1),
    ]
    fit(crafted(), tmp_path, steps=2, callbacks=callbacks, enable_progress_bar=True)
    assert "collapse alarm at step 2: text collapses in layer 1" in capsys.readouterr().out


def test_a_single_expert_cannot_collapse(tmp_path: Path) -> None:
    lit = crafted(num_experts=1, aux_losses=AuxLossSet({"z": ZLoss()}))
    watch(tmp_path, changes={}, lit=lit, steps=4)
    assert alarms(tmp_path) == []


def test_target_experts_follow_the_loss_of_the_run() -> None:
    """Of 8 experts: round(0.63 * 8) = 5 for images, S = 3 where the loss says so, the rule again without threshold."""
    assert target_experts("image", 8, losses=aux_losses()) == pytest.approx(5)
    for term, wanted in ((GlobalEntropy(modality="text", min_experts=3), 3), (GlobalEntropy(modality="text"), 2)):
        assert target_experts("text", 8, losses=AuxLossSet({"global_text": term})) == pytest.approx(wanted)


def test_without_records_there_is_nothing_to_judge(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="collapse_alarm reads the records of routing_health"):
        fit(crafted(), tmp_path, steps=1, callbacks=[CollapseAlarm()])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"action": "shout"}, r"^action must be 'warn', 'stop' or 'boost', got 'shout'"),
        ({"patience": 0}, r"patience must be >= 1 \(records\), got 0"),
        ({"min_success_rate": 1.5}, r"min_success_rate must be between 0 and 1, got 1.5"),
        ({"max_share": -0.1}, r"max_share must be between 0 and 1, got -0.1"),
        ({"min_effective": -1}, r"min_effective must be >= 0, got -1"),
        ({"boost": 1.0}, r"boost must be > 1, got 1.0"),
        ({"boost": 4.0, "max_boost": 2.0}, r"max_boost must be >= boost=4.0, got 2.0"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CollapseAlarm(**settings)
