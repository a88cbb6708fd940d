"""Benchmarks of the training step and of attention run and count what they say they count. No test looks at a time."""

import json
from pathlib import Path

import pytest
import torch

from tests.helpers.commands import program
from tests.helpers.paths import REPO

TINY = ["model.width=32", "model.num_heads=2", "model.mlp_dim=64", "data.batch_size=16", "model.vocab_size=50"]


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPO))
    monkeypatch.chdir(REPO)


def test_figures_of_every_step(tmp_path: Path) -> None:
    words = [*TINY, "--rounds", "1", "--threads", "1", "--out", str(tmp_path)]
    done = program("benchmarks.train_step", *words, cwd=REPO)
    result = json.loads((tmp_path / "train_step.json").read_text())
    rows = {row["step"]: row for row in result["rows"]}
    assert list(rows)[:3] == ["dense", "sparse", "two towers"] and {*rows, *result["missing"]} >= {"open_clip"}
    assert rows["dense"]["ratio"] == 1 and all(row["ratio"] > 0 for row in result["rows"])
    assert 0 < rows["sparse"]["kept"] <= 1 and rows["dense"]["kept"] is None
    assert (result["pairs"], result["image_tokens"], result["text_tokens"]) == (16, 16, 16)
    assert "| sparse |" in (tmp_path / "train_step.md").read_text() and "two towers" in done.stdout


def test_baselines_do_the_same_work() -> None:
    """A step moves the parameters of all; the dense baseline lacks routers and all experts but one."""
    from benchmarks.train_step import random_batch, settings_of
    from benchmarks.trainers import TrainStep, contenders

    settings = settings_of(TINY)
    batch = random_batch(settings, "cpu")
    steps = contenders(settings, batch, autocast=torch.autocast("cpu", enabled=False))
    sizes = {}
    for name, step in steps.items():
        if isinstance(step, TrainStep):
            before = [p.detach().clone() for p in step.parameters]
            step()
            assert any(not torch.equal(a, b) for a, b in zip(before, step.parameters, strict=True)), name
            sizes[name] = sum(p.numel() for p in step.parameters)
    expert = 2 * 32 * 64 + 64 + 32
    assert sizes["sparse"] - sizes["dense"] == 2 * (7 * expert + 8 * 32)  # two sparse layers of 8 experts


def test_only_what_has_a_baseline_keys() -> None:
    from benchmarks.train_step import settings_of

    for override in ("routing.k=2", "model=two_tower_tiny"):
        with pytest.raises(SystemExit, match="needs a sparse one-tower model"):
            settings_of([override, "aux_loss=none"])


def test_peak_of_a_product_by_hand() -> None:
    """x W with x [8, 4], W [4, 16] has 512 bytes; it, its square and their gradients are all there is."""
    from benchmarks.measure import peak_of

    x, w = torch.randn(8, 4), torch.randn(4, 16, requires_grad=True)
    found = peak_of(lambda: (x @ w).square().sum().backward(), parameters=[w], device="cpu")
    assert 2 * 512 <= found <= 4 * 512 + 64


def test_memory_of_the_step_shrinks() -> None:
    from benchmarks.step_memory import loss_rows, step_rows

    for _, whole, parts in [*loss_rows([1024], 64, 32), *step_rows([*TINY, "data.batch_size=64"], 8)]:
        assert float(parts) <= 0.6 * float(whole)


def test_figures_of_attention(tmp_path: Path) -> None:
    words = ["--quick", "--rounds", "1", "--threads", "1", "--out", str(tmp_path)]
    program("benchmarks.attention", *words, cwd=REPO)
    rows = json.loads((tmp_path / "attention.json").read_text())["rows"]
    assert len(rows) == 2 * 2 * 2 and all(row["ratio"] > 0 for row in rows)
    assert "| bfloat16 | 128 | 16 | 4 | 32 | yes |" in (tmp_path / "attention.md").read_text()
