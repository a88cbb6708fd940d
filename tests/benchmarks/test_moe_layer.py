"""The measurements run, and count what they say they count. No test looks at a time."""

import json
from pathlib import Path

import pytest
import torch

from tests.helpers.commands import program
from tests.helpers.paths import REPO


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPO))


def test_moe_layer_writes_figures_of_every_layer(tmp_path: Path) -> None:
    size = ["--width", "32", "--hidden", "64", "--tokens", "1280", "--experts", "4", "--rounds", "1", "--threads", "1"]
    words = [*size, "--dtype", "float32", "bfloat16", "--k", "2", "--peers", "--no-limit", "--aux"]
    done = program("benchmarks.moe_layer", *words, "--out", str(tmp_path), cwd=REPO)
    result = json.loads((tmp_path / "moe_layer.json").read_text())
    backends = [f"limoe {name}" for name in ("auto", "padded", "grouped", "loop")]
    layers = ["dense", *backends, *(f"{name}, no limit" for name in backends)]
    assert [row["layer"] for row in result["rows"]] == 2 * layers
    assert all(row["kept"] == 1 and row["peak_mib"] > 0 and row["ratio"] > 0 for row in result["rows"])
    assert "| float32 T=1,280 K=2 E=4 | dense | 1.00 |" in (tmp_path / "moe_layer.md").read_text()
    assert "limoe grouped, no limit" in done.stdout


@pytest.mark.parametrize("num_experts", [3, 8])
def test_balanced_tokens_name_every_expert_equally_often(num_experts: int) -> None:
    """20 tokens a pair: with 8 experts each pair has 2 or 3 first and second choices of each; 1,280 / 8 = 160."""
    from benchmarks.cases import Case

    case = Case(1280, num_experts, 2, "float32", width=16, hidden=32, device="cpu")
    gates = (case.x @ case.router_weight.T).softmax(-1)
    for choice in gates.topk(2).indices.unbind(1):
        total = torch.bincount(choice, minlength=num_experts)
        assert total.max() - total.min() <= 1
        by_pair = torch.stack([torch.bincount(choice[case.packed.pair == p], minlength=num_experts) for p in range(64)])
        assert by_pair.max() - by_pair.min() <= 1


def test_peak_counts_what_lives_at_the_same_time() -> None:
    """a 10, b 20, free a, c 5: never more than 30 at once. The gradient b is left out: then 10 is the most."""
    from benchmarks.measure import _peak

    changes = [(1, 10), (2, 20), (1, -10), (3, 5)]
    assert _peak(changes, lasting=set()) == 30
    assert _peak(changes, lasting={2}) == 10


def test_peak_knows_reused_and_older_addresses() -> None:
    """Address 1 is first a temporary of 10, then a gradient; address 9 was filled before the step, and freed in it."""
    from benchmarks.measure import _peak

    assert _peak([(1, 10), (1, -10), (9, -50), (1, 40), (2, 3)], lasting={1}) == 10


def test_a_layer_that_cannot_be_measured_says_why() -> None:
    from benchmarks.cases import Case
    from benchmarks.contenders import Unavailable, build_peer

    pytest.importorskip("transformers", reason="no peer is installed")
    with pytest.raises(Unavailable, match="K = 1 only"):
        build_peer("transformers Switch", Case(1280, 4, 2, "float32", width=32, hidden=64, device="cpu"))


def test_names_stay_whole_beside_the_figures_of_a_slow_machine() -> None:
    """At the width of the console of `benchmarks.output.begin`."""
    from rich.console import Console

    from benchmarks.tables import rich_table

    row = {"dtype": "bfloat16", "tokens": 13568, "k": 2, "experts": 64, "layer": "limoe grouped, no limit", "kept": 0.9}
    row |= {"ratio": 12345.67, "ratio_min": 12345.67, "ratio_max": 23456.78, "ratio_at_equal_kept": 12345.67}
    row |= {"cpu_ratio": 1234.56, "peak_mib": 123456.0, "milliseconds": 1234567.8, "neighbours": 1.0}
    result = {"rows": [row | {"waits_for_device": None}], "width": 32, "hidden": 64, "routing": "balanced"}
    console = Console(width=120)
    with console.capture() as shown:
        console.print(rich_table(result | {"pairs_per_group": None, "aux": True, "rounds": 1}))
    assert "limoe grouped, no limit" in shown.get()
