"""From the config of a finished run to what the atlas looks at."""

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from limoe.atlas.finished import atlas_config, images_of, zero_shot_of
from limoe.atlas.settings import settings_of
from limoe.data.pairs import PairSubset
from limoe.data.tasks.kinds import ZeroShotTask
from limoe.errors import ConfigError
from tests.helpers.configs import composed


def hyper_parameters(root: Any = None, *, layers: tuple[int, ...] = (1,), **data: Any) -> dict[str, Any]:
    model = {"_target_": "limoe.models.limoe.LIMoE", "depth": 2, "moe_layers": list(layers)}
    module = {"train": {"root": root}, "val": {"root": root, "path": f"{root}/val.parquet"}}
    if root is not None:
        data["root"] = root
    tasks = {"own": {"path": f"{root}/classes.json", "near": f"{root}-2/x"}}
    return {"model": model, "data": {"batch_size": 32, "module": module, **data}, "eval": tasks}


def test_data_are_read_where_they_lie_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMOE_DATA_DIR", "/all")
    gone, here = str(tmp_path / "gone"), str(tmp_path)
    for recorded, root, now in (
        (here, None, here),
        (gone, "/new", "/new"),
        (gone, None, "/all/emoji"),
        (here, "/new", "/new"),
    ):
        cfg = atlas_config(hyper_parameters(recorded, dataset="emoji"), root=root, tasks=None)
        assert (cfg.data.root, cfg.data.module.val.root) == (now, now)
        assert (cfg.data.module.val.path, cfg.eval.own.path) == (f"{now}/val.parquet", f"{now}/classes.json")
        assert cfg.eval.own.near == f"{recorded}-2/x"  # not inside
        assert cfg.data.module.train is None


def test_data_without_a_name_stay_where_they_were(tmp_path: Path) -> None:
    cfg = atlas_config(hyper_parameters(str(tmp_path / "gone")), root=None, tasks=None)
    assert cfg.data.root == str(tmp_path / "gone")


def test_a_root_for_data_without_one_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data.root must be null: the data of this run have no such key, got '/new'"):
        atlas_config(hyper_parameters(), root="/new", tasks=None)


def test_a_dense_run_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match=r"ckpt must be a run with sparse layers .*dense.*, got 'LIMoE'") as error:
        atlas_config(hyper_parameters(layers=()), root=None, tasks=None)
    assert "\n" not in str(error.value)


def synthetic(*overrides: str) -> Any:
    return composed("experiment=scenes", *overrides)


def test_a_zero_shot_task_is_found_by_name() -> None:
    cfg = synthetic("eval=[synthetic_val,synthetic_heldout]")
    name, task = zero_shot_of(cfg, "synthetic_heldout") or ("", None)
    assert name == "synthetic_heldout" and isinstance(task, ZeroShotTask)
    assert zero_shot_of(cfg, None) is None
    assert zero_shot_of(synthetic("eval=none"), "auto") is None
    with pytest.raises(ConfigError, match=r"knock_out must be a task .*\(synthetic_.*, synthetic_.*\), got 'x'"):
        zero_shot_of(cfg, "x")


def test_images_may_come_from_a_task() -> None:
    cfg = synthetic("eval=[synthetic_heldout]", "eval.synthetic_heldout.images.size=40")
    images = images_of(cfg, "synthetic_heldout")
    assert isinstance(images, PairSubset) and len(images) == 40
    with pytest.raises(ConfigError, match="source must be a task"):
        images_of(cfg, "x")


def test_auto_is_the_first_zero_shot_task() -> None:
    images = {
        "_target_": "limoe.data.scenes.synthetic.SyntheticScenes",
        "split": "val",
        "size": 9,
        "image_size": 8,
        "seed": 0,
    }
    found = {"_target_": "limoe.data.tasks.factories.first_caption_retrieval", "images": images}
    shapes = {"_target_": "limoe.data.tasks.factories.synthetic_zero_shot", "images": images, "combos": "all"}
    cfg = OmegaConf.create({"eval": {"found": found, "b": shapes, "a": shapes}})
    assert (zero_shot_of(cfg, "auto") or ("", 0))[0] == "b"
    assert len(images_of(cfg, "found")) == 9
    with pytest.raises(ConfigError, match="knock_out must be a zero-shot task, auto or null, got 'found'"):
        zero_shot_of(cfg, "found")


def test_the_batch_of_the_run_decides_who_shares_slots() -> None:
    run_cfg = OmegaConf.create(hyper_parameters())
    own = settings_of(composed("ckpt=run", command="atlas"), run_cfg)
    assert (own.batch_size, own.pairs, own.capacity_factor) == (32, 512, "run")
    assert settings_of(composed("ckpt=run", "batch_size=8", command="atlas"), run_cfg).batch_size == 8


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("pairs=0", "pairs must be >= 1, got 0"),
        ("batch_size=0", "batch_size must be >= 1, or run, got 0"),
        ("patches=-1", "patches must be >= 0, got -1"),
        ("min_occurrences=0", "min_occurrences must be >= 1, got 0"),
        ("capacity_factor=0", "capacity_factor must be a number > 0, null or run, got 0"),
        ("capacity_factor=all", "capacity_factor must be a number > 0, null or run, got 'all'"),
    ],
)
def test_settings_have_rules(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings_of(composed("ckpt=run", override, command="atlas"), OmegaConf.create(hyper_parameters()))
