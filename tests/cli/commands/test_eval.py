"""`limoe eval`: which folder a dataset is read from, and the files that a task leaves."""

import json
from pathlib import Path

import pytest
from omegaconf import DictConfig

from limoe.cli.commands.eval import evaluate, evaluation_config, summary
from limoe.errors import ConfigError
from limoe.evaluation.encode import FeatureExtractor
from limoe.reporting.terminal import print_evaluations
from tests.helpers.colors import ColorData, ColorModel, few_shot_task, retrieval_task, zero_shot_task
from tests.helpers.configs import composed

CHECKPOINT = {"path": "run/checkpoints/last.ckpt", "step": 7, "sha256": "ab"}


def config_of(*overrides: str, root: str | None = None, **data: str) -> DictConfig:
    run = {"data": {"root": root, "module": {}, **data}, "model": {}, "eval": {"old": {}}}
    return evaluation_config(run, composed("ckpt=run", *overrides, command="eval"))


def test_the_data_of_the_run_is_read_where_it_is_still_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMOE_DATA_DIR", "/all")
    settings = {"root": str(tmp_path), "dataset": "emoji-captions"}
    tasks = ["eval=[emoji_subgroup,caltech]"]
    assert config_of(*tasks, **settings).eval.emoji_subgroup.images.root == str(tmp_path)
    assert config_of(*tasks, **settings).eval.caltech_zero_shot.images.root == "/all/caltech-photos"
    moved = settings | {"root": str(tmp_path / "gone")}
    assert config_of(*tasks, **moved).eval.emoji_subgroup.images.root == "/all/emoji-captions"
    assert config_of(*tasks, "data.root=/new", **moved).eval.emoji_subgroup.path == "/new/classes.json"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.root=/new"], "data.root needs eval="),
        (["data.root=/new", "eval=[caltech]"], r"\(emoji-captions\), which no task .* set LIMOE_DATA_DIR"),
    ],
)
def test_a_root_that_no_task_reads_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_of(*overrides, dataset="emoji-captions")


def test_a_task_leaves_a_record(tmp_path: Path) -> None:
    about = {"checkpoint": CHECKPOINT, "config": {"_target_": "x"}}
    encoder = FeatureExtractor(ColorModel(), ColorData())
    record = evaluate(encoder, "colors", zero_shot_task(), folder=tmp_path, about=about)
    assert json.loads((tmp_path / "colors.json").read_text()) == record
    assert (record["task"], record["kind"], record["checkpoint"]) == ("colors", "zero_shot", CHECKPOINT)
    top1 = record["metrics"]["zeroshot_top1"]
    assert (top1["value"], top1["chance"], top1["n"]) == (0.75, 0.25, 4)
    assert 0 <= top1["low"] < 0.75 < top1["high"] <= 1
    prompts = record["prompts"]
    assert (prompts["name"], prompts["classes"], prompts["templates"], prompts["files"]) == ("inline", 4, 2, {})
    assert len(prompts["sha256"]) == 64


def test_tasks_without_classes_leave_a_record_alone(tmp_path: Path) -> None:
    encoder = FeatureExtractor(ColorModel(), ColorData())
    found = [
        evaluate(encoder, name, task, folder=tmp_path, about={"checkpoint": CHECKPOINT})
        for name, task in (("found", retrieval_task()), ("few", few_shot_task()))
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["few.json", "found.json"]
    # Three images ask, and two texts.
    assert [found[0]["metrics"][key]["n"] for key in ("i2t_r1", "t2i_r1")] == [3, 2]
    assert found[0]["prompts"] is None
    assert found[1]["details"]["fewshot2_top1"]["per_seed"] == [0.75, 0.75]


def test_the_summary_holds_all_numbers_and_the_terminal_shows_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = evaluate(
        FeatureExtractor(ColorModel(), ColorData()), "colors", zero_shot_task(), folder=tmp_path, about={}
    )
    content = summary([record], about=CHECKPOINT)
    key = "val/colors/zeroshot_top1"
    assert (content["metrics"][key], content["chance"][key], content["n"][key]) == (0.75, 0.25, 4)
    assert content["interval"][key] == [record["metrics"]["zeroshot_top1"][end] for end in ("low", "high")]
    assert (content["checkpoint"], content["step"], content["sha256"]) == tuple(CHECKPOINT.values())
    print_evaluations([record], title="run (step 7)")
    shown = capsys.readouterr().out
    line = next(line for line in shown.splitlines() if "zeroshot_top1" in line)
    assert [word in line for word in ("75.0%", "25.0% to 100.0%", "3.0 ×", " 4 ")] == [True] * 4, line
    assert max(map(len, shown.splitlines())) <= 80 and "colors" in shown
