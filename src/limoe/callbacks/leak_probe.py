"""The leak of limited slots, by which routing tells pairs apart: its measurement, and its cure."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from limoe.callbacks.base import RunCallback
from limoe.errors import ConfigError, LimoeError, require_argument
from limoe.models.compilation import uncompiled
from limoe.routing.base import routers_of
from limoe.routing.priority import PRIORITIES
from limoe.training.lit_module import LIMoEModule
from limoe.training.micro_batches import encode
from limoe.types import Batch, ModelOutput

EXCESS = "leak/excess"


class LeakProbe(RunCallback):
    """Log `leak/unrelated_loss` and `leak/excess` after every validation, means over its first `batches` batches.

    The texts of a batch change places, so that no image stands beside its own text, and the model runs as in training:
    capacity, noise, priority, parts of `micro_batch_size`; without gradients. The softmax loss of image i with text i
    is the mean of both directions over the B - 1 candidates of a row that do not fit it; each rank scores its own B
    pairs. Features that know nothing of the place in the batch have a loss of at least ln(B - 1), up to noise, whatever
    else they know. `excess` = ln(B - 1) - loss is what images and texts tell each other through the routing.

    The noise of the routers is the same at every validation. Training is unchanged: random generators, buffers and the
    mode of every module are restored. With the callback `ema` the weights are the averaged ones.

    Args:
        batches: validation batches, of `data.batch_size` pairs where there are as many.
    """

    def __init__(self, *, batches: int = 4) -> None:
        require_argument(batches >= 1, "batches", ">= 1", batches)
        self.batches = batches

    def check(self, module: LIMoEModule) -> None:
        if not routers_of(module.model):
            raise ConfigError("callbacks.leak_probe: a dense model has no routing; drop it: ~callbacks.leak_probe")

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int, *_: Any
    ) -> None:
        if trainer.sanity_checking or batch_idx >= self.batches:
            return
        size = len(batch.images)
        if size < 3:
            raise LimoeError(f"leak_probe needs batches of at least 3 validation pairs, got {size}; add some")
        order = other_places(size, seed=batch_idx).to(pl_module.device)
        mixed = batch._replace(text_ids=batch.text_ids[order], text_mask=batch.text_mask[order])
        module: Any = pl_module
        with _as_in_training(module.model, device=pl_module.device), trainer.precision_plugin.train_step_context():
            torch.manual_seed(batch_idx)
            output = encode(module.model, mixed, micro_batch_size=module.micro_batch_size)
        loss = unrelated_loss(output, order)
        found = {"leak/unrelated_loss": loss, EXCESS: math.log(size - 1) - loss}
        pl_module.log_dict(found, batch_size=size, sync_dist=True)


def other_places(size: int, *, seed: int) -> Int[Tensor, "B"]:
    """A permutation that leaves nothing in its place: each place of a random cycle gets what the next one has."""
    cycle = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    order = torch.empty_like(cycle)
    order[cycle] = cycle.roll(-1)
    return order


def unrelated_loss(output: ModelOutput, order: Int[Tensor, "B"]) -> Float[Tensor, ""]:
    """Symmetric softmax loss of image i with text i. Text i belongs to image `order[i]`: those two are not scored."""
    logits = output.logit_scale * output.image_features @ output.text_features.T  # B, B
    place = torch.arange(len(order), device=order.device)
    fits = order == place[:, None]
    logits = logits.masked_fill(fits, -float("inf"))
    return 0.5 * (F.cross_entropy(logits, place) + F.cross_entropy(logits.T, place))


@contextmanager
def _as_in_training(model: nn.Module, *, device: torch.device) -> Iterator[None]:
    """Training mode without gradients inside the block; then buffers, modes and generators are as before."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    devices = [device] if device.type == "cuda" else []
    model.train()
    try:
        with torch.random.fork_rng(devices=devices), torch.no_grad(), uncompiled():
            yield
    finally:
        for module, training in modes:
            module.training = training
        for buffer, before in buffers:
            buffer.copy_(before)


def position_leak(model: nn.Module) -> str | None:
    """One line for a model whose routers drop tokens by position in training; None where none does."""
    if not any(router.drops_by_position() for router in routers_of(model)):
        return None
    return (
        "priority: experts have fewer slots than tokens and give them by position, so dropped tokens tell images and "
        "texts which pair they belong to, and the training loss can fall without learning; use "
        f"{leak_cure(model)} (callbacks=[default,leak_probe] measures it)"
    )


def leak_cure(model: nn.Module) -> str:
    """The settings that end a leak. Where no router drops tokens by position, groups of few pairs are its cause."""
    no_limit = "routing.capacity_factor=null"
    routers = [router for router in routers_of(model) if router.drops_by_position()]
    if not routers:
        return f"a larger routing.pairs_per_group or {no_limit}"
    cures = []
    for name, priority in PRIORITIES.items():
        if not any(router.drops_by_position(priority) for router in routers):
            cures.append(f"priority={name}")
    return " or ".join([*cures, no_limit])
