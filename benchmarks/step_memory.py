"""What saves memory in a training step, and how much: chunks of the loss, micro-batches, activation checkpointing.

    python -m benchmarks.step_memory
    python -m benchmarks.step_memory model=limoe_s32 data.batch_size=64 --parts 8

Peak of forward and backward beyond weights and their gradients, from the allocator's own record. Words with `=` are
overrides of `limoe train`.
"""

import argparse
from collections.abc import Iterator
from functools import partial

import limoe  # noqa: F401  (first: makes torchvision importable beside a CPU-only torch)

# isort: split
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.measure import peak_of
from benchmarks.train_step import random_batch, settings_of
from limoe.config.objects import instantiate
from limoe.losses.auxiliary.base import AuxLossSet
from limoe.losses.contrastive import ContrastiveLoss, SigmoidContrastive, SoftmaxContrastive
from limoe.training.micro_batches import encode
from limoe.types import Batch

Row = tuple[str, str, str]


def loss_rows(batch_sizes: list[int], chunk_size: int, dim: int) -> Iterator[Row]:
    """Of the loss alone, on features that are given."""
    for pairs in batch_sizes:
        leaves = [F.normalize(torch.randn(pairs, dim), dim=-1).requires_grad_() for _ in range(2)]
        for kind in (SoftmaxContrastive, SigmoidContrastive):
            peaks = []
            for size in (None, chunk_size):
                loss = kind(chunk_size=size)
                peaks.append(peak_of(partial(_backward, loss, leaves), parameters=leaves, device="cpu") / 2**20)
                for leaf in leaves:
                    leaf.grad = None
            yield f"{kind.__name__}, {pairs:,} pairs of {dim} numbers", f"{peaks[0]:.0f}", f"{peaks[1]:.0f}"


def _backward(loss: ContrastiveLoss, leaves: list[Tensor]) -> None:
    loss(*leaves, torch.tensor(10.0)).backward()


def step_rows(overrides: list[str], parts: int) -> Iterator[Row]:
    """Of a whole step, at once and in parts."""
    for saving in (False, True):
        settings = settings_of([*overrides, f"model.activation_checkpointing={saving}"])
        batch, model = random_batch(settings, "cpu"), instantiate(settings["model"])
        contrastive = instantiate(settings["contrastive"])
        aux = AuxLossSet(instantiate(settings["aux_loss"]), **settings["aux_total"])
        pairs = settings["data"]["batch_size"]
        peaks = []
        for size in (None, pairs // parts):
            work = partial(_step, model, batch, contrastive, aux, size)
            peaks.append(peak_of(work, parameters=model.parameters(), device="cpu") / 2**20)
            model.zero_grad(set_to_none=True)
        name = f"step of {pairs} pairs, activation checkpointing {'on' if saving else 'off'}"
        yield name, f"{peaks[0]:.0f}", f"{peaks[1]:.0f}"


def _step(model: nn.Module, batch: Batch, contrastive: ContrastiveLoss, aux: AuxLossSet, size: int | None) -> None:
    output = encode(model, batch, micro_batch_size=size)
    task = contrastive(output.image_features, output.text_features, output.logit_scale)
    (task + aux(output.routing).total).backward()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step_memory", description=__doc__.splitlines()[0])
    parser.add_argument("overrides", nargs="*", help="of the training config")
    parser.add_argument("--parts", type=int, default=8, help="micro-batches")
    parser.add_argument("--loss-pairs", type=int, nargs="*", default=[1024, 2048, 4096])
    parser.add_argument("--chunk-size", type=int, default=128)
    chosen = parser.parse_args()
    torch.manual_seed(0)
    table = Table(
        "peak MiB", "at once", "in parts", title=f"chunks of {chosen.chunk_size}, {chosen.parts} micro-batches"
    )
    for row in [*loss_rows(chosen.loss_pairs, chosen.chunk_size, 256), *step_rows(chosen.overrides, chosen.parts)]:
        table.add_row(*row)
    console = Console()
    if not console.is_terminal:
        console.width = 120
    console.print(table)


if __name__ == "__main__":
    main()
