"""Run folders with a checkpoint, written without training."""

import json
from functools import cache
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch import nn

from limoe.build import build_model
from limoe.config.objects import plain
from limoe.config.places import register_resolvers
from limoe.data.text.text_tokenizer import TextTokenizer
from limoe.data.text.tokenizers import ByteBPE
from tests.helpers.paths import CONFIGS

SMALL = (
    "experiment=scenes",
    "model.width=16",
    "model.num_heads=2",
    "model.mlp_dim=32",
    "model.depth=2",
    "model.moe_layers=[1]",
    "model.num_experts=4",
    "tokenizer.vocab_size=300",
    "tokenizer.length=8",
    "paths.output_dir=out",
)
DENSE = ("model.moe_layers=[]", "aux_loss=none")
METRICS = {"val/shapes/zeroshot_top1": 0.5, "train/loss": 1.0}


@cache
def config(*overrides: str) -> DictConfig:
    register_resolvers()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("train", overrides=[*SMALL, *overrides])


@cache
def tokenizer(*, word: str = "circle") -> TextTokenizer:
    captions = [f"a red {word}", f"a blue {word} above a red square"] * 5
    return ByteBPE(vocab_size=300, length=8, max_captions=100).fit(captions)


def state_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {f"model.{name}": value for name, value in model.state_dict().items()}


def write_checkpoint(folder: Path, *overrides: str, step: int = 7, **extra: object) -> nn.Module:
    """`folder` becomes a run with a checkpoint of random weights; returns its network as evaluation builds it."""
    cfg = config(*overrides)
    model = build_model(cfg)
    checkpoint = {"state_dict": state_of(model), "hyper_parameters": plain(cfg), "global_step": step}
    (folder / "checkpoints").mkdir(parents=True)
    torch.save({**checkpoint, **extra}, folder / "checkpoints" / "last.ckpt")
    tokenizer().save(folder / "tokenizer.json")
    record = {
        "command": "limoe train experiment=scenes",
        "seed": 0,
        "metrics": METRICS,
        "chance": {"val/shapes/zeroshot_top1": 0.05},
        "versions": {"torch": "2.13.0"},
        "status": "done",
    }
    (folder / "run.json").write_text(json.dumps(record))
    return model.eval()
