"""The config of a finished run for the atlas: place of its data, tasks, no training data."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from limoe.config.model_settings import sparse_towers
from limoe.config.objects import instantiate
from limoe.config.places import dataset_root
from limoe.config.trees import mapped, moved
from limoe.data.tasks.kinds import FewShotTask, LinearProbeTask, Task, ZeroShotTask
from limoe.errors import ConfigError, require
from limoe.types import PairDataset

AUTO = "auto"


def atlas_config(hyper_parameters: dict[str, Any], *, root: str | None, tasks: DictConfig | None) -> DictConfig:
    """The run's config with the present place of its data set, and with `tasks` in place of its own unless empty.

    The data set is looked for in `root`, in the folder that the run recorded, and in $LIMOE_DATA_DIR, in this order.
    Raises `ConfigError` if the model is dense, or `root` is given and the data of the run have none.
    """
    model = hyper_parameters["model"]
    rule = "a run with sparse layers (model.moe_layers is empty: a dense model routes nothing)"
    require(len(sparse_towers(model)) > 0, "ckpt", rule, model["_target_"].rpartition(".")[2])
    data = hyper_parameters["data"]
    recorded = data.get("root")
    require(root is None or recorded is not None, "data.root", "null: the data of this run have no such key", root)
    if recorded is not None:
        now = root or recorded
        if root is None and not Path(recorded).is_dir() and data.get("dataset") is not None:
            now = dataset_root(data["dataset"], _root_=OmegaConf.create({}))
        hyper_parameters = mapped(hyper_parameters, lambda _, value: moved(value, before=str(recorded), now=now))
    run_cfg = OmegaConf.create(hyper_parameters)
    run_cfg.data.module.train = None
    if tasks:
        run_cfg.eval = OmegaConf.to_container(tasks, resolve=False)
    return run_cfg


def images_of(run_cfg: DictConfig, name: str) -> PairDataset:
    """The pairs of a task of the config; of a task with a training part, its test pairs. Raises `ConfigError` if there
    is no such task.
    """
    task = _task(run_cfg, name, key="source")
    return task.test.images if isinstance(task, FewShotTask | LinearProbeTask) else task.images


def zero_shot_of(run_cfg: DictConfig, name: str | None) -> tuple[str, ZeroShotTask] | None:
    """A zero-shot task of the config by name; `auto` is the first one, if there is any. Raises `ConfigError` if there
    is no such task, or it is of another kind.
    """
    if name is None:
        return None
    if name == AUTO:
        found = ((own, _task(run_cfg, str(own), key="knock_out")) for own in run_cfg.eval)
        return next(((str(own), task) for own, task in found if isinstance(task, ZeroShotTask)), None)
    task = _task(run_cfg, name, key="knock_out")
    if not isinstance(task, ZeroShotTask):
        raise ConfigError(f"knock_out must be a zero-shot task, auto or null, got {name!r}, a {type(task).__name__}")
    return name, task


def _task(run_cfg: DictConfig, name: str, *, key: str) -> Task:
    names = ", ".join(map(str, run_cfg.eval)) or "none"
    require(name in run_cfg.eval, key, f"a task of the run or of eval=[...] ({names})", name)
    return instantiate(run_cfg.eval[name])
