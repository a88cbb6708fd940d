"""A tiny model with planted weights, so that one sees which expert computes which patch and which word.

Patches of 4 pixels are red, green or blue, experts 0, 1 and 2 are theirs. Words: `red` goes to expert 0, `dog` to 1,
the end of a text to 2, `cat` to 3. With a router of scale 1 the gates are 0.794 for patches and 0.873 for words: the
vectors are (1, -1, -1, 0 ...) and (1, 0, 0, 0 ...) in 8 dimensions, normalised by LayerNorm.
"""

from collections.abc import Iterator
from functools import cache, partial
from random import Random
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from limoe.data.datamodule import PairDataModule
from limoe.data.images.transforms import EvalTransform
from limoe.data.tasks.kinds import ZeroShotTask
from limoe.data.text.text_tokenizer import TextTokenizer
from limoe.data.text.tokenizers import ByteBPE
from limoe.models.limoe import LIMoE
from limoe.routing.priority import bpr
from limoe.routing.token_choice import TopKRouter
from limoe.types import Pair

COLOURS = {"R": (255, 0, 0), "G": (0, 255, 0), "B": (0, 0, 255)}
SCENES = (("RRGB", "cat"), ("RGGB", "red cat"), ("BBBB", "cat dog"))
EXPERT_OF = {"red": 0, "dog": 1, "": 2, "cat": 3}
SIZES: dict[str, Any] = {
    "width": 8,
    "depth": 1,
    "num_heads": 2,
    "mlp_dim": 16,
    "image_size": 8,
    "patch_size": 4,
    "text_length": 4,
}


class Scenes:
    """2 x 2 coloured patches with a caption each."""

    def __init__(self, scenes: tuple[tuple[str, str], ...] = SCENES) -> None:
        self.scenes = scenes

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> Pair:
        colours, caption = self.scenes[index]
        pixels = np.array([COLOURS[c] for c in colours], dtype=np.uint8).reshape(2, 2, 3)
        image = Image.fromarray(pixels.repeat(4, axis=0).repeat(4, axis=1))
        return Pair(image, [caption], {}, str(index))

    def captions(self) -> Iterator[str]:
        return (caption for _, caption in self.scenes)


@cache
def tokenizer() -> TextTokenizer:
    return ByteBPE(vocab_size=300, length=4, max_captions=100).fit(["red cat dog"] * 20)


def data(scenes: Scenes | None = None) -> PairDataModule:
    scenes = Scenes() if scenes is None else scenes
    transform = EvalTransform(image_size=8)

    def train_transform(image: Image.Image, rng: Random) -> torch.Tensor:
        return transform(image)

    module = PairDataModule(
        train=scenes,
        val=scenes,
        tokenizer=ByteBPE(vocab_size=300, length=4, max_captions=100),
        train_transform=train_transform,
        eval_transform=transform,
        batch_size=1,
        num_workers=0,
        seed=0,
    )
    module.tokenizer = tokenizer()
    return module


def model(*, router: Any = TopKRouter, **settings: Any) -> LIMoE:
    """Routers that learn get the planted weights, one row per expert."""
    if issubclass(router, TopKRouter):
        settings = {"priority": bpr, **settings}
    built = LIMoE(
        **SIZES,
        vocab_size=300,
        moe_layers=(0,),
        num_experts=4,
        expert_init="independent",
        router=partial(router, **settings),
    )
    with torch.no_grad():
        _plant(built)
    return built.eval()


def _plant(built: LIMoE) -> None:
    block: Any = built.tower.blocks[0]
    nn.init.zeros_(block.attn.proj.weight)  # no token sees another
    for embed in (built.image_embed, built.text_embed):
        nn.init.zeros_(embed.pos_embed)
    nn.init.zeros_(built.image_embed.patch_embed.proj.weight)
    for channel in range(3):
        built.image_embed.patch_embed.proj.weight[channel, channel] = 1 / 16  # the mean over a patch
    nn.init.zeros_(built.text_embed.token_embed.weight)
    for word, expert in EXPERT_OF.items():
        token = int(tokenizer().encode([word])[0][0, 0])
        built.text_embed.token_embed.weight[token, expert] = 1
    if isinstance(block.mlp.router, TopKRouter):
        block.mlp.router.weight.copy_(torch.eye(4, 8))


def task() -> ZeroShotTask:
    scenes = Scenes((("RRGB", "cat"), ("RGGB", "dog"), ("BBBB", "red"), ("RRRR", "red"), ("GGGG", "dog")))
    names = ["red", "dog", "cat"]
    labels = [names.index(caption) for _, caption in scenes.scenes]
    return ZeroShotTask(scenes, labels, names, ["{}", "cat {}"])
