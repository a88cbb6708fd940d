"""Two ranks log what one process would; in whole trainings `test_callbacks_core.py` looks at the callback."""

import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from builders import routed_at_random, tokens_of
from ranks import run_two
from torch import Tensor

from limoe.callbacks.routing_health import RoutingHealth
from limoe.routing.statistics import modality_statistics
from limoe.types import MODALITIES, RouterOutput

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
