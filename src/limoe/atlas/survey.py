"""The content of the atlas of a model: a record for JSON, and its images."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from limoe.atlas.collect import SparseLayer, as_pixels, choose, load, route, sparse_layers
from limoe.atlas.drops import capacity_line, drops, limited_routers
from limoe.atlas.experts import add_patches, add_words, examples, layer_record
from limoe.atlas.knock_out import KnockOut
from limoe.atlas.patches import PatchGrid
from limoe.atlas.settings import RUN, Settings
from limoe.atlas.words import WordCounts
from limoe.data.datamodule import PairDataModule
from limoe.data.tasks.kinds import ZeroShotTask
from limoe.errors import require
from limoe.types import IMAGE, TEXT, Batch, PairDataset, RouterOutput


@dataclass(frozen=True)
class Survey:
    """`record` for JSON; its patches and examples index `images`, `captions` and `positions`."""

    record: dict[str, Any]
    images: UInt8[Tensor, "B h w 3"]
    grid: PatchGrid | None


def survey(
    model: Any, data: PairDataModule, pairs: PairDataset, *, task: tuple[str, ZeroShotTask] | None, settings: Settings
) -> Survey:
    """Record the routing of `pairs`, and the expert knock-out on `task` (name, task) unless None."""
    assert data.tokenizer is not None
    torch.manual_seed(settings.seed)  # for routers and priorities that draw random numbers
    chosen = choose(pairs, count=settings.pairs, seed=settings.seed)
    batches = load(data, chosen, batch_size=settings.batch_size)
    images = torch.cat([as_pixels(batch.images, data.eval_transform) for batch in batches])
    ids, mask = (torch.cat([getattr(batch, name) for batch in batches]) for name in ("text_ids", "text_mask"))
    routing = route(model, batches)
    layers = sparse_layers(model, routing)
    image_tokens = [(r.modality == IMAGE).sum().item() for r in routing.values() if IMAGE in r.modalities]
    grid = PatchGrid(images, tokens=int(image_tokens[0]) // len(images)) if image_tokens else None
    words = WordCounts(ids, mask, tokenizer=data.tokenizer)
    record = {
        "pairs": len(images),
        "of": len(pairs),
        "positions": [chosen.indices[i] for batch in batches for i in batch.sample.tolist()],
        "min_occurrences": settings.min_occurrences,
        "evaluation_drops": any(
            layer.router.capacity is not None and layer.router.capacity.eval_capacity_factor is not None
            for layer in layers
        ),
        "captions": [data.tokenizer.decode(i[m].tolist()) for i, m in zip(ids, mask, strict=True)],
        "layers": [_layer(layer, routing[layer.number], grid=grid, words=words, settings=settings) for layer in layers],
        "examples": examples(routing, ids=ids, mask=mask, tokenizer=data.tokenizer, count=settings.examples),
        "drops": _drops(model, batches, settings=settings),
        "knock_out": None,
    }
    if task is not None:
        knock_out = KnockOut(model, data, task[1], layers=layers, settings=settings)
        record["knock_out"] = {"task": task[0], **knock_out()}
    return Survey(record, images, grid)


def _layer(
    layer: SparseLayer, routed: RouterOutput, *, grid: PatchGrid | None, words: WordCounts, settings: Settings
) -> dict[str, Any]:
    pairs = len(words.mask)
    record = layer_record(layer, routed)
    if IMAGE in routed.modalities and grid is not None:
        add_patches(record, routed, grid, pairs=pairs, count=settings.patches)
    if TEXT in routed.modalities:
        add_words(record, routed, words, pairs=pairs, count=settings.words, minimum=settings.min_occurrences)
    return record


def _drops(model: Any, batches: Sequence[Batch], *, settings: Settings) -> dict[str, Any] | None:
    """Dropped tokens under the settings' capacity; None where no token could be dropped. Raises `ConfigError` if a
    capacity factor is given, and no router of the model has a capacity.
    """
    factor = settings.capacity_factor
    capacities: list[Any] = [router.capacity for router in limited_routers(model)]
    if factor is None or (factor == RUN and all(capacity.capacity_factor is None for capacity in capacities)):
        return None
    require(len(capacities) > 0, "capacity_factor", "run or null: this model limits no expert", factor)
    how: Any = {"capacity_factor": settings.capacity_factor, "priority": settings.slot_priority}
    return {"how": capacity_line(model, **how), "layers": drops(model, batches, **how)}
