"""Health of the routers: lines of whole trainings; two ranks log what one process would."""

import json
import math
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from limoe.callbacks.routing_health import RoutingHealth
from limoe.losses.auxiliary.base import AuxLossSet
from limoe.routing import statistics
from limoe.routing.statistics import modality_statistics, routing_sums
from limoe.types import MODALITIES, RouterOutput
from tests.helpers.builders import routed_at_random, tiny_model, tokens_of
from tests.helpers.ranks import run_two
from tests.helpers.training import fit, module

LOGGED = (
    *("success_rate", "load_cv", "top_share", "dead_experts", "own_experts"),
    *("local_entropy", "global_entropy", "effective_experts"),
)


class Logs:
    """What a callback wants of the LightningModule."""

    device = "cpu"

    def __init__(self) -> None:
        self.logged: dict[str, float] = {}

    def log(self, name: str, value: Tensor, **_: Any) -> None:
        self.logged[name] = value.item()

    def log_dict(self, values: dict[str, Tensor]) -> None:
        self.logged |= {name: value.item() for name, value in values.items()}


def watched(routing: dict[int, RouterOutput], folder: str, *, alone: bool, is_first: bool = True) -> dict[str, float]:
    """What is logged for step 2 of two; before it step 1, which has no record, and on which one rank is alone."""
    callback, logs = RoutingHealth(every_n_steps=2), Logs()
    for step in (1, 2) if alone else (2,):
        trainer = SimpleNamespace(global_step=step, max_steps=9, default_root_dir=folder, is_global_zero=is_first)
        output = {"output": SimpleNamespace(routing=routing)}
        callback.on_train_batch_end(trainer, logs, output, None, step)  # type: ignore[arg-type]
    return logs.logged


def uneven_health(rank: int) -> list[dict[str, float]]:
    part = slice(0, 11) if rank == 0 else slice(11, None)
    routing = {layer: tokens_of(routed, part) for layer, routed in routed_at_random().items()}
    with tempfile.TemporaryDirectory() as folder:
        logged = watched(routing, folder, alone=rank == 0, is_first=rank == 0)
    ranks: list[Any] = [None, None]
    torch.distributed.all_gather_object(ranks, logged)
    return ranks


def test_two_ranks_log_the_numbers_of_one_process(tmp_path: Path) -> None:
    """Of 57 tokens the first rank has 11; a step without a record asks nothing of the other rank."""
    first, second = run_two(uneven_health, tmp_path)
    assert first == second
    expected: dict[str, float] = {}
    for layer, routed in routed_at_random().items():
        for modality, name in enumerate(MODALITIES):
            found = modality_statistics(routed, modality)
            for statistic in LOGGED:
                expected[f"router/L{layer:02d}/{name}/{statistic}"] = getattr(found, statistic).item()
            for q, value in zip(("05", "50", "95"), found.top_gate.tolist(), strict=True):
                expected[f"router/L{layer:02d}/{name}/top_gate_q{q}"] = value
    for name in MODALITIES:
        rates = [expected[f"router/L{layer:02d}/{name}/success_rate"] for layer in (1, 3)]
        expected |= {f"router/{name}/success_rate": sum(rates) / 2, f"router/{name}/success_rate_min": min(rates)}
    assert first == pytest.approx(expected, rel=1e-6)


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
