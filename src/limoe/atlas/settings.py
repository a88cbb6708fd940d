"""Settings of the atlas: the keys of configs/atlas.yaml."""

import dataclasses
from dataclasses import dataclass

from omegaconf import DictConfig

from limoe.config.objects import plain
from limoe.errors import require

RUN = "run"  # the value that the run was trained with
_LEAST = {"pairs": 1, "patches": 0, "words": 0, "min_occurrences": 1, "examples": 0, "knock_out_images": 1}


@dataclass(frozen=True)
class Settings:
    """Keys of configs/atlas.yaml; slots are shared within `batch_size` pairs.

    Raises:
        ConfigError: a count below its minimum, a batch size below 1, or a capacity factor that is not positive.
    """

    pairs: int
    seed: int
    patches: int
    words: int
    min_occurrences: int
    examples: int
    batch_size: int
    capacity_factor: float | str | None
    slot_priority: str
    knock_out_images: int
    knock_out_templates: int | None

    def __post_init__(self) -> None:
        for key, least in _LEAST.items():
            value = getattr(self, key)
            require(value >= least, key, f">= {least}", value)
        is_size = isinstance(self.batch_size, int) and self.batch_size >= 1
        require(is_size, "batch_size", ">= 1, or run", self.batch_size)
        templates = self.knock_out_templates
        require(templates is None or templates >= 1, "knock_out_templates", ">= 1, or null", templates)
        factor = self.capacity_factor
        is_factor = factor is None or factor == RUN or (isinstance(factor, int | float) and factor > 0)
        require(is_factor, "capacity_factor", "a number > 0, null or run", factor)


def settings_of(cfg: DictConfig, run_cfg: DictConfig) -> Settings:
    """Settings from the command's config; `batch_size=run` becomes the run's batch size."""
    names = {field.name for field in dataclasses.fields(Settings)}
    chosen = {key: value for key, value in plain(cfg).items() if key in names}
    if chosen["batch_size"] == RUN:
        chosen["batch_size"] = run_cfg.data.batch_size
    return Settings(**chosen)
