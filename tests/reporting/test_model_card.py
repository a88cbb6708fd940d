"""The model card says what is known, escapes it, and makes nothing up."""

from typing import Any

import yaml

from limoe.config.objects import plain
from limoe.reporting.model_card import model_card
from tests.helpers.fake_checkpoint import DENSE, METRICS, config


def card(*overrides: str, step: int = 900, **record: Any) -> str:
    run = plain(config(*overrides))
    source = {"step": step, "weights": "raw", "parameters": 1234567, **record}
    described = {"model": run["model"], "preprocess": run["data"]["module"]["eval_transform"], "limoe_version": "0.1.0"}
    content = {**described, "logit_bias": None, "source": source}
    return model_card(content, run=run, record=record, name="scenes")


def test_numbers_stand_beside_chance() -> None:
    text = card(metrics=METRICS, chance={"val/shapes/zeroshot_top1": 0.05, "val/other": 0.1})
    assert "| val/shapes/zeroshot_top1 | 50.0% | 5.0% | 10.0 × |" in text
    assert "train/loss" not in text and "val/other" not in text
    assert "**These weights" not in text


def test_facts_of_the_run() -> None:
    text = card(command="limoe train experiment=scenes", seed=3, git_commit="abc", versions={"torch": "2.13"})
    rows = {
        "width": "16",
        "router.k": "1",
        "moe_layers": "[1]",
        "steps": "900 of 900",
        "seed": "3",
        "git commit": "abc",
    }
    assert {f"| {key} | {value} |" for key, value in rows.items()} <= set(text.splitlines())
    assert "`limoe train experiment=scenes`" in text and "1,234,567 parameters and buffers" in text
    assert "Sparse `limoe.models.limoe.LIMoE`" in text
    assert "limoe.data.scenes.synthetic.SyntheticScenes (split=train, size=20000" in text
    assert text.endswith("training data.\n")


def test_what_is_not_known_is_not_said() -> None:
    text = card(*DENSE)
    assert "No evaluation is recorded." in text and "Dense `" in text
    assert "seed" not in text.partition("## Training")[2].partition("## Results")[0].replace("seed=0", "")
    assert "| git commit" not in text


def test_an_earlier_step_is_marked() -> None:
    assert "**These weights are of step 450 of 900:" in card(step=450, metrics=METRICS)


def test_folders_of_the_trainer_stay_out() -> None:
    text = card("data=emoji", "eval=none", "data.root=/home/somebody/emoji-captions")
    assert "limoe.data.shards.tar_shards.TarShards" in text and "somebody" not in text


def test_text_cannot_leave_its_place() -> None:
    text = card(command="limoe `x`\n\n# Owned", git_commit="a | b")
    assert "`limoe 'x' # Owned`" in text
    assert "| git commit | a \\| b |" in text


def test_the_header_is_yaml_without_a_chosen_licence() -> None:
    header = yaml.safe_load(card().split("---\n")[1])
    assert header == {"library_name": "limoe", "pipeline_tag": "zero-shot-image-classification", "license": "unknown"}
