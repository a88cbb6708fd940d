"""Print the cost of a model before training: parameters, FLOPs, slots, memory, baselines.

limoe info model=limoe_h14 data.batch_size=1024
limoe info experiment=emoji_limoe               any config that `limoe train` takes
limoe info model=limoe_b16 --json               one JSON object, for programs
"""

import json
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from limoe.accounting.anatomy import without_values
from limoe.accounting.summary import baseline, summary
from limoe.config.checks import check_sizes
from limoe.config.model_settings import dense_baseline, sparse_towers, towers, two_tower_baseline
from limoe.config.objects import instantiate, plain
from limoe.reporting.terminal import cost_tables

FLAGS = {"--json": "json=true"}


def run(cfg: DictConfig) -> None:
    """Print tables, or JSON."""
    check_sizes(plain(cfg))
    info = model_info(cfg)
    if cfg.json:
        print(json.dumps(info, allow_nan=False))
    else:
        Console().print(cost_tables(info, title=f"{info['model']}, batch of {info['pairs']} pairs"))


def model_info(cfg: DictConfig) -> dict[str, Any]:
    """The content of `limoe info` by name; the model has no values and takes no memory."""
    settings = plain(cfg)
    model = settings["model"]
    pairs = settings["data"]["batch_size"]
    info = {
        "model": model["_target_"].rpartition(".")[2],
        "pairs": pairs,
        **summary(
            _build(cfg.model),
            pairs=pairs,
            micro_batch=min(pairs, settings["micro_batch_size"] or pairs),
            precision=settings["trainer"]["precision"],
            optimizer=settings["optimizer"]["_target_"].rpartition(".")[2],
            chunk_size=settings["contrastive"].get("chunk_size"),
            averages=int("ema" in settings["callbacks"]),
        ),
    }
    is_one_tower = set(towers(model)) == {"model"}
    dense = dense_baseline(model) if sparse_towers(model) else None
    two_tower = two_tower_baseline(model) if is_one_tower else None
    baselines = {"dense_baseline": dense, "two_tower_baseline": two_tower}
    return info | {
        name: other and baseline(_build(OmegaConf.create(other)), info, pairs=pairs)
        for name, other in baselines.items()
    }


def _build(model: DictConfig) -> Any:
    with without_values():
        return instantiate(model)
