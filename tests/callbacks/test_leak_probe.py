"""The loss of unrelated pairs in training mode, logged by a callback that a training does not notice."""

import json
import math
import tempfile
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn

from limoe.callbacks.collapse_alarm import CollapseAlarm
from limoe.callbacks.leak_probe import EXCESS, LeakProbe, other_places, unrelated_loss
from limoe.callbacks.routing_health import RoutingHealth
from limoe.errors import ConfigError, LimoeError
from limoe.nn import StepUpdated
from limoe.routing.base import routers_of
from limoe.routing.priority import first_come, random
from limoe.runs.folder import read_run
from limoe.types import ModelOutput
from tests.helpers.builders import Batches, quiet_trainer, tiny_batch, tiny_model
from tests.helpers.ranks import run_two
from tests.helpers.training import module

SCHEDULE = {"max_steps": 4, "val_check_interval": 2, "num_sanity_val_steps": 0}
BALANCED = {"bias_balance": {}, "priority": random, "capacity_factor": 0.6, "pairs_per_group": 2}


def validated(lit: Any, folder: Path, *callbacks: L.Callback, pairs: int = 6, **settings: Any) -> L.Trainer:
    """Four steps with a validation of two batches after the second and the fourth."""
    trainer = quiet_trainer(folder, callbacks=list(callbacks), **{**SCHEDULE, **settings})
    batches = Batches([tiny_batch(seed=i) for i in range(4)])
    trainer.fit(lit, batches, Batches([tiny_batch(pairs=pairs, seed=50 + i) for i in range(2)]))
    return trainer


def sparse(seed: int = 0, **settings: Any) -> Any:
    torch.manual_seed(seed)
    return module(model=tiny_model(moe_layers=(0, 1), router={**BALANCED, **settings}), aux_losses=module().aux_losses)


def output(image: Tensor, text: Tensor, scale: float) -> ModelOutput:
    return ModelOutput(image, text, torch.tensor(scale), {})


def test_nothing_stays_in_its_place() -> None:
    for size in range(2, 40):
        order = other_places(size, seed=size)
        assert sorted(order.tolist()) == list(range(size)) and not (order == torch.arange(size)).any()
        assert torch.equal(order, other_places(size, seed=size))
    assert not torch.equal(other_places(8, seed=0), other_places(8, seed=1))


def test_the_loss_by_hand() -> None:
    """Three pairs, text i of image order[i] = i + 1: image i is scored with texts i and i + 1, not with text i - 1.

    Equal features: ln 2. Features by place, cosines 1 and 0, scale 2: ln(1 + e^-2) = 0.1269. A model that knows the
    content instead would have its cosines at [i, i - 1], which count nowhere.
    """
    order = torch.tensor([1, 2, 0])
    equal, by_place = torch.ones(3, 1), torch.eye(3)
    assert unrelated_loss(output(equal, equal, 2.0), order).item() == pytest.approx(math.log(2))
    assert unrelated_loss(output(by_place, by_place, 2.0), order).item() == pytest.approx(0.126928, abs=1e-6)
    assert unrelated_loss(output(by_place, by_place[order], 2.0), order).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("part", [None, 2])
def test_training_does_not_notice(tmp_path: Path, part: int | None) -> None:
    """Equal weights and biases of the balance to the last bit; noise and a random priority draw from the generator."""
    found = []
    for callbacks in ([], [LeakProbe(batches=1)], [LeakProbe()]):
        lit = sparse()
        lit.micro_batch_size = part
        torch.manual_seed(1)
        validated(lit, tmp_path, *callbacks)
        found.append([*lit.model.state_dict().values(), torch.get_rng_state()])
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))
    assert any(balance.bias.any() for balance in lit.model.modules() if isinstance(balance, StepUpdated))


class Spy(nn.Module):
    """Passes on what a model says, and notes in which mode and for which texts it was asked."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.inner = model
        self.asked: list[tuple[bool, Tensor]] = []

    def forward(self, images: Tensor, text_ids: Tensor, text_mask: Tensor) -> ModelOutput:
        assert not torch.is_grad_enabled() or self.training
        self.asked.append((routers_of(self)[0].training, text_ids))
        return self.inner(images, text_ids, text_mask)

    def clamp_logit_scale(self) -> None:
        self.inner.clamp_logit_scale()


def test_the_first_batches_are_asked_once_more_in_training_mode(tmp_path: Path) -> None:
    """Two validations of two batches, one of them probed: texts in another order, and evaluation mode before it."""
    lit = sparse()
    lit.model = Spy(lit.model)
    trainer = validated(lit, tmp_path, LeakProbe(batches=1))
    asked = lit.model.asked
    assert [training for training, _ in asked] == [True, True, False, True, False] * 2
    (_, plain), (_, mixed) = asked[2], asked[3]
    assert torch.equal(mixed, plain[other_places(6, seed=0)])
    assert trainer.callback_metrics["leak/unrelated_loss"] + trainer.callback_metrics[EXCESS] == pytest.approx(
        math.log(5)
    )


def probed(seed: int) -> tuple[dict[str, float], dict[str, Any]]:
    """What is logged for a batch of six pairs, and how."""
    calls = []

    def log_dict(values: dict[str, Tensor], **how: Any) -> None:
        calls.append(({name: value.item() for name, value in values.items()}, how))

    lit = sparse()
    lit.log_dict = log_dict
    with tempfile.TemporaryDirectory() as folder:
        LeakProbe().on_validation_batch_end(quiet_trainer(Path(folder)), lit, None, tiny_batch(pairs=6, seed=seed), 0)
    return calls[0]


def test_equal_weights_give_equal_values() -> None:
    """Whatever the generator stands at: noise and a random priority are those of the batch's number."""
    (first, how), (second, _) = probed(7), probed(7)
    assert first == second and how == {"batch_size": 6, "sync_dist": True}
    assert first["leak/unrelated_loss"] != probed(8)[0]["leak/unrelated_loss"]


def on_rank(rank: int) -> list[float]:
    mine = torch.tensor(probed(7 + rank)[0][EXCESS])
    parts = [torch.zeros_like(mine) for _ in range(2)]
    torch.distributed.all_gather(parts, mine)
    return [part.item() for part in parts]


def test_each_of_two_ranks_scores_its_own_pairs(tmp_path: Path) -> None:
    """As one process would score the batch of either rank; Lightning logs the mean."""
    alone = [probed(7 + rank)[0][EXCESS] for rank in range(2)]
    assert run_two(on_rank, tmp_path) == pytest.approx(alone, abs=1e-6)


def test_models_and_batches_without_places(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^callbacks\.leak_probe: a dense model has no routing"):
        LeakProbe().check(module(model=tiny_model(moe_layers=())))
    LeakProbe().check(sparse())
    with pytest.raises(LimoeError, match="at least 3 validation pairs, got 2"):
        validated(sparse(), tmp_path, LeakProbe(), pairs=2)
    with pytest.raises(ValueError, match=r"^batches must be >= 1, got 0"):
        LeakProbe(batches=0)


class Excess(L.Callback):
    """Logs an excess at each validation, as `LeakProbe` does."""

    def __init__(self, *excess: float) -> None:
        self.excess = iter(excess)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        pl_module.log(EXCESS, next(self.excess))


def alarmed(folder: Path, *excess: float, **settings: Any) -> tuple[L.Trainer, CollapseAlarm, list[dict[str, Any]]]:
    lit = sparse(priority=first_come)
    alarm = CollapseAlarm(min_success_rate=0.0, min_effective=0.0, max_share=1.0, **settings)
    callbacks = [Excess(*excess), RoutingHealth(), alarm]
    trainer = validated(lit, folder, *callbacks, max_steps=len(excess), val_check_interval=1)
    path = folder / "routing" / "alarms.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return trainer, alarm, [json.loads(line) for line in lines]


CURE = "use priority=bpr or priority=random or routing.capacity_factor=null"


@pytest.mark.parametrize("action", ["warn", "boost"])
def test_a_leak_is_an_alarm_once_until_it_is_gone(
    tmp_path: Path, action: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Above 0.1 after steps 2, 3 and 5: alarms at 2 and 5, in the file, in reports and on the terminal."""
    trainer, alarm, found = alarmed(tmp_path, 0.05, 0.5, 0.6, 0.0, 0.25, action=action)
    message = f"routing tells unrelated pairs apart: their loss is 0.50 nats below chance > 0.1; {CURE}"
    assert found[0] == {
        **{"step": 2, "since": 2, "layer": None, "modality": None, "term": None},
        "signs": ["their loss is 0.50 nats below chance > 0.1"],
        "message": message,
    }
    assert [one["step"] for one in found] == [2, 5]
    assert f"collapse alarm at step 2: {message}\n" in capsys.readouterr().out
    assert alarm.stop_reason is None and trainer.global_step == 5 and alarm.state_dict()["boosts"] == {}
    (tmp_path / "run.json").write_text("{}")
    assert read_run(tmp_path).alarms == {(None, None): message}


def test_a_leak_stops_the_training(tmp_path: Path) -> None:
    trainer, alarm, _ = alarmed(tmp_path, 0.5, 0.5, 0.5, action="stop")
    assert trainer.global_step == 1
    assert alarm.stop_reason is not None and alarm.stop_reason.startswith("collapse alarm: routing tells unrelated")


def test_a_leak_goes_on_over_a_resume(tmp_path: Path) -> None:
    _, alarm, _ = alarmed(tmp_path / "first", 0.5)
    again = CollapseAlarm()
    again.load_state_dict(alarm.state_dict())
    assert again.state_dict() == alarm.state_dict() and alarm.state_dict()["leaking"]


def test_no_limit_is_no_alarm(tmp_path: Path) -> None:
    assert alarmed(tmp_path, 3.0, max_leak=None)[2] == []
    with pytest.raises(ValueError, match=r"^max_leak must be >= 0 \(nats\) or null, got -1"):
        CollapseAlarm(max_leak=-1)
