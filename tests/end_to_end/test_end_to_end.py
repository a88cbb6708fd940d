"""The command as a user types it: train, look at the run folder, evaluate, report; and what happens on bad input."""

import json
from pathlib import Path

import pytest
import torch

from tests.helpers.commands import limoe

TINY = [
    "experiment=scenes",
    "trainer.max_steps=4",
    "trainer.val_check_interval=2",
    "data.size=128",
    "data.batch_size=16",
    "model.width=32",
    "model.num_heads=2",
    "model.mlp_dim=64",
    "callbacks.routing_health.every_n_steps=2",
    "callbacks.sample_predictions.count=4",
    "eval.synthetic_heldout.images.size=40",
    "eval.synthetic_val.images.size=40",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def trained(place: Path) -> tuple[Path, str]:
    done = limoe("train", *TINY, "hydra.run.dir=run", cwd=place)
    return place / "run", done.stdout


def test_a_run_folder_is_complete(trained: tuple[Path, str]) -> None:
    folder, _ = trained
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "done" and record["error"] is None and record["seed"] == 0
    assert record["command"].startswith("limoe train experiment=scenes")
    assert {"config_hash", "git_commit", "versions", "seconds"} <= record.keys()
    key = "val/synthetic_heldout/zeroshot_top1"
    assert 0 <= record["metrics"][key] <= 1 and record["chance"][key] == pytest.approx(1 / 20)
    assert {"train/loss", "router/text/success_rate", "router/L01/image/success_rate"} <= record["metrics"].keys()
    for name in ("config.yaml", "tokenizer.json", "csv/metrics.csv", "routing/health.jsonl", "samples/samples.json"):
        assert (folder / name).is_file(), name
    page = (folder / "report.html").read_text()
    assert "data:image/png;base64" in page and "<script" not in page


def test_the_terminal_says_what_came_out_and_where(trained: tuple[Path, str]) -> None:
    folder, out = trained
    assert "val/synthetic_heldout/zeroshot_top1" in out and "5.0%" in out  # chance beside it
    assert f"report: {folder / 'report.html'}" in out and f"run folder: {folder}" in out


def test_the_checkpoint_holds_plain_containers(trained: tuple[Path, str]) -> None:
    state = torch.load(trained[0] / "checkpoints" / "last.ckpt", weights_only=True)
    assert type(state["hyper_parameters"]) is dict and state["global_step"] == 4


def test_a_used_folder_is_refused_and_left_alone(place: Path, trained: tuple[Path, str]) -> None:
    before = {p: p.read_bytes() for p in trained[0].rglob("*") if p.is_file()}
    done = limoe("train", *TINY, "hydra.run.dir=run", cwd=place, code=2)
    assert "already holds a run" in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert {p: p.read_bytes() for p in trained[0].rglob("*") if p.is_file()} == before


def test_eval_gives_the_numbers_of_the_run(place: Path, trained: tuple[Path, str]) -> None:
    done = limoe("eval", "run", "hydra.run.dir=evaluated", cwd=place)
    results = json.loads((place / "evaluated" / "results.json").read_text())
    record = json.loads((trained[0] / "run.json").read_text())
    for key, value in results["metrics"].items():
        assert record["metrics"][key] == pytest.approx(value, abs=1e-6), key
    assert "synthetic_heldout" in done.stdout and "zeroshot_top1" in done.stdout and "95 % interval" in done.stdout
    assert json.loads((place / "evaluated" / "synthetic_heldout.json").read_text())["kind"] == "zero_shot"


def test_report_can_be_written_again(place: Path, trained: tuple[Path, str]) -> None:
    limoe("report", "run", "out=page.html", cwd=place)
    assert (place / "page.html").stat().st_size > 50_000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model.num_expert=8"], "did you mean 'model.num_experts'"),
        (["routing.capacity_factor=-1"], "routing.capacity_factor must be > 0 or null, got -1"),
        (["routing.k=9"], "routing.k must be at most model.num_experts=8, got 9"),
        (["model.moe_layers=[]"], "aux_loss=none"),
        (["priority=brp"], "did you mean 'bpr'"),
        (["data=emoji", "data.root=nowhere"], "folder nowhere does not exist"),
        (["optimizer.lr=-1"], "optimizer.lr must be > 0, got -1"),
        (["trainer.max_steps=0"], "trainer.max_steps must be a whole number > 0, got 0"),
    ],
)
def test_bad_input_is_one_line_before_training(tmp_path: Path, words: list[str], message: str) -> None:
    done = limoe("train", *words, "hydra.run.dir=run", cwd=tmp_path, code=2)
    assert done.stderr.startswith("limoe: error: ") and len(done.stderr.strip().splitlines()) == 1
    assert message in done.stderr
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize("shard", ["not_a_tar.tar", "empty_file.tar"])
def test_a_broken_shard_is_named(tmp_path: Path, shared: Path, shard: str) -> None:
    (tmp_path / "train-0000.tar").write_bytes((shared / "data" / "corrupt" / "tar" / shard).read_bytes())
    done = limoe("train", "data=emoji", "data.root=.", "eval=none", "hydra.run.dir=run", cwd=tmp_path, code=2)
    assert "train-0000.tar" in done.stderr and len(done.stderr.strip().splitlines()) == 1
