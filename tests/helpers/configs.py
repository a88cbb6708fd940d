"""Configs of the repository, composed as a command composes them."""

from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from limoe.accounting.anatomy import without_values
from limoe.config.objects import instantiate
from limoe.config.places import register_resolvers
from tests.helpers.paths import CONFIGS

COMMANDS = ("train", "eval", "atlas", "report", "export", "tokenizer", "info", "search")
# an option of its own, a set, or a folder that is not a group of choices
GROUPS = sorted(p.name for p in CONFIGS.iterdir() if p.is_dir() and p.name not in ("hydra", "paths", "local"))
OPTIONS = [f"{group}={file.stem}" for group in GROUPS for file in sorted((CONFIGS / group).glob("[!_]*.yaml"))]


def composed(*overrides: str, command: str = "train") -> DictConfig:
    register_resolvers()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose(command, overrides=[*overrides, "paths.output_dir=out"])


def built(*overrides: str) -> Any:
    """The model of a config, its parameters without values."""
    with without_values():
        return instantiate(composed(*overrides).model)
