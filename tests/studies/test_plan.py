"""A study's plan: whatever a trial would refuse is found before the first one runs."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import initialize_config_dir

from limoe.config.places import config_dir, register_resolvers
from limoe.errors import ConfigError
from limoe.studies.plan import plan_study
from limoe.studies.study import parse_study


@pytest.fixture(autouse=True)
def hydra_configs() -> Iterator[None]:
    register_resolvers()
    with initialize_config_dir(str(config_dir("train")), version_base="1.3"):
        yield


def refused(*overrides: str, root: Path) -> str:
    content = {
        "question": "?",
        "base": ["paths.output_dir=out"],
        "variants": {"mine": list(overrides)},
        "seeds": [0],
        "metrics": ["val/loss"],
    }
    with pytest.raises(ConfigError) as caught:
        plan_study(parse_study(content, name="s", place="study.yaml"), root=root)
    return str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("aux_loss.z.weight=-1", "aux_loss.z.weight must be a number >= 0, got -1"),
        ("aux_loss.z._target_=textwrap.dedet", "aux_loss.z._target_: cannot find 'textwrap.dedet'"),
        ("aux_loss.global_text.min_fraction=2", "aux_loss.global_text.min_fraction must be a number in (0, 1] or"),
        ("aux_total.over_layers=max", "aux_total.over_layers must be 'mean' or 'sum', got 'max'"),
    ],
)
def test_losses_are_built_before_anything_runs(override: str, message: str, tmp_path: Path) -> None:
    assert refused(override, root=tmp_path).startswith(f"variant mine: {message}")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.num_heads=3"], "model.width must be a multiple of model.num_heads=3"),
        (["optimizer.lr=-1"], "optimizer.lr must be > 0, got -1"),
        (
            ["callbacks=[default,aux_loss_schedule]", "aux_loss=classic"],
            "the auxiliary loss local_text is scheduled but not active",
        ),
        (
            ["callbacks=[default,aux_loss_schedule]", "callbacks.aux_loss_schedule.schedules.local_text.kind=ramp"],
            "callbacks.aux_loss_schedule.schedules.local_text.kind must be one of constant, linear, cosine, window",
        ),
        (
            ["callbacks=[default,priority_toggle]", "callbacks.priority_toggle.unit=hour"],
            "callbacks.priority_toggle.unit must be 'step' or 'epoch', got 'hour'",
        ),
    ],
)
def test_models_optimizers_and_callbacks_are_built_before_anything_runs(
    overrides: list[str], message: str, tmp_path: Path
) -> None:
    assert refused(*overrides, root=tmp_path).startswith(f"variant mine: {message}")


def test_a_mistyped_word_of_a_variant_gets_the_nearest(tmp_path: Path) -> None:
    key = refused("aux_loss=switch", "aux_loss.switch.wieght=2", root=tmp_path)
    assert key.endswith("unknown key 'aux_loss.switch.wieght'; did you mean 'aux_loss.switch.weight'?")
    option = refused("aux_loss=[limoe,swich]", root=tmp_path)
    assert option.startswith("variant mine: aux_loss has no option 'swich'; did you mean 'switch'? (options: all, ")
