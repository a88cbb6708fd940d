"""limoe info: every kind of model, as tables and as JSON."""

import json
from typing import Any

import pytest
from rich.console import Console

from limoe.cli.commands.info import model_info, run
from limoe.errors import ConfigError
from limoe.reporting.terminal import cost_tables, gib, prefixed
from tests.helpers.configs import composed

KINDS = {
    "sparse": ["model=limoe_h14"],
    "dense": ["model=dense_b32"],
    "two towers": ["model=two_tower_moe_b16"],
    "locked": ["model=lit_b16", "optimizer=lion"],
    "soft": ["routing=soft", "callbacks=[default,ema]"],
    "expert choice": ["routing=expert_choice", "optimizer=adafactor", "trainer=gpu"],
    "no limit": ["routing.capacity_factor=null"],
}


def info(*overrides: str) -> dict[str, Any]:
    return model_info(composed(*overrides, command="info"))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_fits_on_80_columns(kind: str) -> None:
    found = info(*KINDS[kind])
    json.dumps(found, allow_nan=False)
    console = Console(width=80, record=True, file=None, force_terminal=False)
    with console.capture() as captured:
        console.print(cost_tables(found, title="model"))
    text = captured.get()
    assert max(map(len, text.splitlines())) <= 80 and "…" not in text
    assert found["collapse"]["says"] in " ".join(text.split()) or "experts" not in found["capacity"]


def test_h14() -> None:
    """The paper's numbers: 5.55 billion parameters, 675 million per token."""
    found = info("model=limoe_h14", "data.batch_size=1024", "trainer=gpu", "micro_batch_size=256")
    assert f"{found['params']['total'] / 1e9:.2f}" == "5.55"
    assert f"{found['params']['active_per_token'] / 1e6:.0f}" == "676"  # 675.0 and the routers
    assert found["capacity"]["slots_per_expert"] == 72 and found["collapse"]["visible"]
    assert found["dense_baseline"]["params"]["total"] == 675_019_521
    assert found["dense_baseline"]["ratio"] == pytest.approx(1.0008, abs=1e-4)
    assert found["two_tower_baseline"]["flops"]["pair"] == found["dense_baseline"]["flops"]["pair"]
    assert found["flops"]["pair"] == found["flops"]["image"] + found["flops"]["text"]
    assert found["flops"]["train_step"] == 1024 * found["flops"]["train_pair"]
    whole = info("model=limoe_h14", "data.batch_size=1024", "trainer=gpu")
    assert found["memory"]["activations"] < 0.3 * whole["memory"]["activations"]


def test_baselines_only_where_there_are() -> None:
    dense, two = info("model=dense_tiny"), info("model=two_tower_moe_tiny")
    assert dense["dense_baseline"] is None and dense["two_tower_baseline"] is not None
    assert two["dense_baseline"] is not None and two["two_tower_baseline"] is None


def test_average_and_unknown_optimizers() -> None:
    plain_run, averaged = info(), info("callbacks=[default,ema]")
    assert averaged["memory"]["average"] == plain_run["memory"]["parameters"] and plain_run["memory"]["average"] == 0
    cfg = composed(command="info")
    cfg.optimizer._target_ = "torch.optim.SGD"
    assert model_info(cfg)["memory"]["optimizer"] is None and gib(None) == "unknown"


def test_output(capsys: pytest.CaptureFixture[str]) -> None:
    run(composed("json=true", command="info"))
    assert json.loads(capsys.readouterr().out) == info()
    run(composed(command="info"))
    assert "LIMoE, batch of 64 pairs" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"model\.width must be a multiple of model\.num_heads=4, got 130"):
        run(composed("model.width=130", command="info"))


def test_numbers() -> None:
    values = {72: "72", 0: "0", 999: "999", 1000: "1.000 k", 20_190_000_000: "20.19 G", 353_694_000_000: "353.7 G"}
    assert {value: prefixed(value) for value in values} == values
    assert prefixed(2.5) == "2.500" and prefixed(999_960) == "1.000 M"
    assert prefixed(5_553_770_241, units=("", "k", "M", "B")) == "5.554 B"
    assert gib(2**30) == "1.00 GiB" and gib(2**20) == "1.00 MiB"
