"""Resolvers of the configs, and the folders of configs, studies and data."""

import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

import limoe
from limoe.errors import ConfigError

RUN_ID = "LIMOE_RUN_ID"
CONFIG_DIR = "LIMOE_CONFIG_DIR"


def register_resolvers(*, help_text: str = "", groups: Callable[[], str] = str) -> None:
    """Register `${limoe_run_id:}`, `${limoe_help:}`, `${limoe_groups:}` and `${dataset_root:folder}`, before Hydra
    composes. `help_text` is the help of the command, `groups` returns the options of all groups.
    """
    OmegaConf.register_new_resolver("limoe_run_id", run_id, replace=True)
    OmegaConf.register_new_resolver("dataset_root", dataset_root, replace=True)
    OmegaConf.register_new_resolver("limoe_help", lambda: help_text.replace("$", "$$"), replace=True)
    OmegaConf.register_new_resolver("limoe_groups", lambda: groups().replace("$", "$$"), replace=True)


def run_id() -> str:
    """One name per command, passed to the processes it starts by the environment.

    A time stamp, or `slurm-<job>`, so that a requeued job finds its own folder again.
    """
    job = os.environ.get("SLURM_JOB_ID")
    name = f"slurm-{job}" if job else datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")
    return os.environ.setdefault(RUN_ID, name)


def dataset_root(folder: str, *, _root_: DictConfig) -> str:
    """Folder of a dataset: `data.root` if it is the run's own (`data.dataset`), else $LIMOE_DATA_DIR/<folder>.

    Evaluation tasks on the run's own dataset so use the same folder; those on other datasets work in any run.
    """
    data: Any = _root_.get("data") or {}
    if data.get("dataset") == folder and data.get("root") is not None:
        return str(data.root)
    return str(Path(os.environ.get("LIMOE_DATA_DIR", "data")) / folder)


def config_dir(name: str) -> Path:
    """Folder of the Hydra configs: $LIMOE_CONFIG_DIR if set, else ./configs, that of the clone, or that of the wheel.
    Raises `ConfigError` if none of them holds `<name>.yaml`.
    """
    package = Path(limoe.__file__).parent
    chosen = os.environ.get(CONFIG_DIR)
    places = [Path(chosen)] if chosen else [Path("configs"), package.parents[1] / "configs", package / "configs"]
    for place in places:
        if (place / f"{name}.yaml").is_file():
            return place.resolve()
    raise ConfigError(f"no {name}.yaml in {', '.join(str(place) for place in places)}; set {CONFIG_DIR} to the folder")


def experiment_dir(named: Path, *, file: str) -> tuple[Path, Path]:
    """Folder of a study or a search, and the folder for its results.

    `named` is a folder that holds `file` (study.yaml or search.yaml), or the name of an experiment, with or without
    `experiments/` before it: in `./experiments`, else beside the configs in use, in a clone or in the wheel. Results go
    below a folder named by its path, else below `./experiments/<name>`; never into an installed package.
    """
    home = Path("experiments", named.name)
    for folder in (named, Path("experiments") / named):
        if (folder / file).is_file():
            is_installed = folder.resolve().is_relative_to(Path(limoe.__file__).parent)
            return folder, home if is_installed else folder
    shipped = config_dir(Path(file).stem).parent / home
    if named in (Path(named.name), home) and (shipped / file).is_file():
        return shipped, home
    return named, named


def own_config_dir(name: str) -> Path | None:
    """`./configs` of a project that adds options to those of limoe: one without a `<name>.yaml` of its own."""
    place = Path("configs")
    return place.resolve() if place.is_dir() and not (place / f"{name}.yaml").is_file() else None
