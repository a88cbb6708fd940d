"""Detection of routing collapse per layer and modality, with an action: warn, stop, boost."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import lightning as L

from limoe.callbacks.base import RunCallback
from limoe.callbacks.leak_probe import EXCESS, leak_cure
from limoe.callbacks.routing_health import HealthRecord, RoutingHealth, append_lines
from limoe.errors import LimoeError, require_argument
from limoe.losses.auxiliary.base import AuxLossSet
from limoe.losses.auxiliary.entropy import MIN_FRACTION, GlobalEntropy
from limoe.runs.layout import ALARMS
from limoe.training.lit_module import LIMoEModule

_ACTIONS = ("warn", "stop", "boost")


@dataclass(frozen=True)
class Alarm:
    """Collapse of a modality in one layer since step `since`. `term` is the auxiliary loss to raise.

    A leak between the modalities has no layer, modality and term.
    """

    step: int
    since: int
    layer: int | None
    modality: str | None
    signs: list[str]
    term: str | None

    def __str__(self) -> str:
        if self.layer is None:
            return f"routing tells unrelated pairs apart: {', '.join(self.signs)}"
        return f"{self.modality} collapses in layer {self.layer} since step {self.since}: {', '.join(self.signs)}"


class CollapseAlarm(RunCallback):
    """Raise an alarm for a modality in a layer after `patience` records of `RoutingHealth` in a row with a sign.

    Signs: fewer than `min_success_rate` of the modality's assignments get a slot; its effective experts exp(H) fall
    below `min_effective` times S, the exponential of the threshold of its global entropy loss (without that loss the
    paper's fraction of E); one expert is chosen by more than `max_share` of its tokens. With a single expert the last
    two are left out.

    The loss to raise is the global entropy where one of the last two signs is present, else the local entropy, which
    raises the gates and so the priority of the modality's tokens. Alarms are printed and written to
    `routing/alarms.jsonl`, which reports read.

    With the callback `leak_probe` a leak between the modalities is an alarm too: an excess above `max_leak` after a
    validation, once until it is below. No loss works against it, so "boost" only warns.

    Args:
        action: "warn", once until the signs are gone; "stop", end the training after this step as Lightning's early
            stopping does (validation and checkpoint included), with status "stopped" and the reason in `run.json`;
            "boost", warn and multiply the weight of that loss, again every `patience` records while the signs last,
            logged as `train/aux_boost/<name>`. A boost multiplies the schedule's factor too, and is never reset.
        patience: records in a row, that is `patience * routing_health.every_n_steps` optimizer steps.
        min_success_rate: share of assignments, 0 = never.
        min_effective: share of S, 0 = never.
        max_share: share of tokens, 1 = never.
        boost: factor on the weight for each boost.
        max_boost: largest product of these factors.
        max_leak: largest excess of `leak_probe`, in nats; None = never.

    Raises:
        ArgumentError: unknown action, `patience` below 1, a share outside [0, 1], a negative `max_leak`, or `max_boost`
            below `boost`.
    """

    def __init__(
        self,
        *,
        action: str = "warn",
        patience: int = 5,
        min_success_rate: float = 0.5,
        min_effective: float = 0.6,
        max_share: float = 0.9,
        boost: float = 2.0,
        max_boost: float = 10.0,
        max_leak: float | None = 0.1,
    ) -> None:
        require_argument(action in _ACTIONS, "action", "'warn', 'stop' or 'boost'", action)
        require_argument(patience >= 1, "patience", ">= 1 (records)", patience)
        for name, share in (("min_success_rate", min_success_rate), ("max_share", max_share)):
            require_argument(0 <= share <= 1, name, "between 0 and 1", share)
        require_argument(min_effective >= 0, "min_effective", ">= 0", min_effective)
        require_argument(boost > 1, "boost", "> 1", boost)
        require_argument(max_boost >= boost, "max_boost", f">= boost={boost}", max_boost)
        require_argument(max_leak is None or max_leak >= 0, "max_leak", ">= 0 (nats) or null", max_leak)
        self.action = action
        self.patience = patience
        self.min_success_rate = min_success_rate
        self.min_effective = min_effective
        self.max_share = max_share
        self.boost = boost
        self.max_boost = max_boost
        self.max_leak = max_leak
        self._leaking = False
        self._streaks: dict[str, list[int]] = {}  # "layer/modality" -> step of the first sign, records since
        self._boosts: dict[str, float] = {}
        self._seen = 0

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not any(isinstance(c, RoutingHealth) for c in trainer.callbacks):  # type: ignore[attr-defined]
            raise LimoeError("the callback collapse_alarm reads the records of routing_health; add that as well")
        cast(LIMoEModule, pl_module).aux_losses.boost.update(self._boosts)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Judge new records of `RoutingHealth`, at most one batch late where this callback precedes it.

        Records, and so alarms and boosts, are the same on all ranks.
        """
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        records = next(c.latest for c in callbacks if isinstance(c, RoutingHealth))
        if not records or records[0].step == self._seen:
            return
        self._seen = records[0].step
        losses = cast(LIMoEModule, pl_module).aux_losses
        alarms = [alarm for record in records if (alarm := self._judge(record, losses)) is not None]
        if alarms:
            self._act(alarms, trainer=trainer, pl_module=pl_module)
        if self._boosts:
            pl_module.log_dict({f"train/aux_boost/{name}": value for name, value in self._boosts.items()})

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Judge what `LeakProbe` has logged, a mean over all ranks."""
        if self.max_leak is None or EXCESS not in trainer.callback_metrics:
            return
        excess = trainer.callback_metrics[EXCESS].item()
        was_leaking, self._leaking = self._leaking, excess > self.max_leak
        if self._leaking and not was_leaking:
            sign = f"their loss is {excess:.2f} nats below chance > {self.max_leak:g}"
            alarm = Alarm(trainer.global_step, trainer.global_step, None, None, [sign], None)
            self._act([alarm], trainer=trainer, pl_module=pl_module)

    def _judge(self, record: HealthRecord, losses: AuxLossSet) -> Alarm | None:
        """Count consecutive records with a sign; return an alarm when there are `patience` of them."""
        key = f"{record.layer}/{record.modality}"
        concentration = self._concentration(record, losses)
        signs = concentration + self._dropped(record)
        if not signs:
            self._streaks.pop(key, None)
            return None
        since, count = self._streaks.get(key, [record.step, 0])
        count += 1
        self._streaks[key] = [since, count]
        if count % self.patience or (count > self.patience and self.action != "boost"):
            return None
        term = f"{'global' if concentration else 'local'}_{record.modality}"
        return Alarm(record.step, since, record.layer, record.modality, signs, term)

    def _concentration(self, record: HealthRecord, losses: AuxLossSet) -> list[str]:
        """Signs that the modality uses too few experts. An absent modality (NaN) shows none."""
        found = record.statistics
        num_experts = len(found.load)
        if num_experts == 1:
            return []
        signs = []
        effective = found.effective_experts.item()
        target = target_experts(record.modality, num_experts, losses=losses)
        if effective < self.min_effective * target:
            signs.append(f"{effective:.1f} effective experts < {self.min_effective:g} x {target:.0f}")
        if (share := found.top_share.item()) > self.max_share:
            signs.append(f"{share:.0%} of its tokens on expert {found.load.argmax().item()}")
        return signs

    def _dropped(self, record: HealthRecord) -> list[str]:
        success = record.statistics.success_rate.item()
        return [f"success rate {success:.0%} < {self.min_success_rate:.0%}"] if success < self.min_success_rate else []

    def _act(self, alarms: list[Alarm], *, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        module = cast(LIMoEModule, pl_module)
        losses = module.aux_losses
        if self.action == "boost":
            for name in sorted({alarm.term for alarm in alarms if alarm.term and losses.is_active(alarm.term)}):
                losses.boost[name] = self._boosts[name] = min(self.max_boost, losses.boost[name] * self.boost)
        lines = []
        for alarm in alarms:
            advice = f"use {leak_cure(module)}" if alarm.term is None else self._advice(alarm.term, losses)
            lines.append(f"{alarm}; {advice}")
        for line in lines:
            pl_module.print(f"collapse alarm at step {alarms[0].step}: {line}")
        if self.action == "stop":
            others = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
            self.stop_reason = f"collapse alarm: {lines[0]}{others}"
            trainer.should_stop = True
        if trainer.is_global_zero:
            contents = [asdict(alarm) | {"message": line} for alarm, line in zip(alarms, lines, strict=True)]
            append_lines(Path(trainer.default_root_dir) / ALARMS, contents)

    def _advice(self, name: str, losses: AuxLossSet) -> str:
        term = losses.terms.get(name)
        if term is None:
            return f"add the loss {name}: aux_loss=[...,{name}]"
        if name in self._boosts:
            return f"aux_loss.{name} now weighs {self._boosts[name]:g} times its configured weight"
        return f"raise aux_loss.{name}.{'weight' if term.absolute_weight is None else 'absolute_weight'}"

    def state_dict(self) -> dict[str, Any]:
        return {"streaks": self._streaks, "boosts": self._boosts, "seen": self._seen, "leaking": self._leaking}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._streaks, self._boosts, self._seen = (state_dict[key] for key in ("streaks", "boosts", "seen"))
        self._leaking = state_dict["leaking"]


def target_experts(modality: str, num_experts: int, *, losses: AuxLossSet) -> float:
    """S = exp(threshold) of the run's global entropy loss for this modality; without one the paper's fraction of E."""
    term = losses.terms.get(f"global_{modality}")
    tau = term.threshold(num_experts) if isinstance(term, GlobalEntropy) else None
    if tau is None:
        tau = GlobalEntropy(modality=modality, min_fraction=MIN_FRACTION[modality]).threshold(num_experts)
    assert tau is not None
    return math.exp(tau)
