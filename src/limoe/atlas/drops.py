"""Share of the tokens that training would drop, by layer, modality and position."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from limoe.atlas.collect import Tokens, in_rows, route
from limoe.atlas.settings import RUN
from limoe.routing.base import Router, routers_of
from limoe.routing.priority import get_priority
from limoe.types import IMAGE, MODALITIES, Batch


def limited_routers(model: nn.Module) -> list[Router]:
    """Routers with a capacity."""
    return [router for router in routers_of(model) if router.capacity is not None]


@contextmanager
def training_capacity(model: nn.Module, *, capacity_factor: float | str | None, priority: str) -> Iterator[None]:
    """Evaluate with limited slots inside the block, by default with training's capacity and priority. Noise stays off.
    Raises `ConfigError` if there is no such priority.
    """
    routers = limited_routers(model)
    before = [(router.capacity, router.eval_priority) for router in routers]
    try:
        for router in routers:
            assert router.capacity is not None
            factor = router.capacity.capacity_factor if isinstance(capacity_factor, str) else capacity_factor
            router.capacity = dataclasses.replace(router.capacity, eval_capacity_factor=factor)
            if router.priority is not None:
                router.eval_priority = router.priority if priority == RUN else get_priority(priority)
        yield
    finally:
        for router, (capacity, eval_priority) in zip(routers, before, strict=True):
            router.capacity = capacity
            router.eval_priority = eval_priority


def capacity_line(model: nn.Module, *, capacity_factor: float | str | None, priority: str) -> str:
    """Capacity, routing group and priority in words."""
    router = limited_routers(model)[0]
    assert router.capacity is not None
    line = f"capacity factor {capacity_factor}"
    if capacity_factor == RUN:
        line = f"the capacity of training (factor {router.capacity.capacity_factor})"
    line += f" shared by {router.capacity.pairs_per_group or 'all'} pairs"
    if router.priority is None:
        return line
    function: Any = router.priority.func if isinstance(router.priority, functools.partial) else router.priority
    chosen = f"its priority ({function.__name__})" if priority == RUN else f"priority {priority}"
    return f"{line}, and {chosen}"


def drops(
    model: nn.Module, batches: Sequence[Batch], *, capacity_factor: float | str | None, priority: str
) -> dict[int, dict[str, Any]]:
    """Dropped assignments by layer: `slots` of each expert and group, and their share by modality.

    `dropped` is the share of all, `by_position` that of each position (image: rows of the grid; None where there is no
    token), `tokens` counts the real tokens of each position. Slots are shared within each batch.
    """
    pairs = sum(len(batch.images) for batch in batches)
    with training_capacity(model, capacity_factor=capacity_factor, priority=priority):
        routing = route(model, batches, name="drops")
    found: dict[int, dict[str, Any]] = {}
    for layer, routed in routing.items():
        found[layer] = {"slots": routed.capacity}
        for modality in routed.modalities:
            tokens = Tokens.of(routed, modality, sequences=pairs)
            found[layer][MODALITIES[modality]] = _by_position(tokens, is_grid=modality == IMAGE)
    return found


def _by_position(tokens: Tokens, *, is_grid: bool) -> dict[str, Any]:
    valid = tokens.valid[..., None].expand_as(tokens.kept)  # [B, n, K]
    dropped = (valid & ~tokens.kept).sum((0, 2))  # [n]
    assigned = valid.sum((0, 2))  # [n]
    share = [_ratio(a, b) for a, b in zip(dropped.tolist(), assigned.tolist(), strict=True)]
    return {
        "dropped": _ratio(dropped.sum().item(), assigned.sum().item()),
        "by_position": in_rows(share) if is_grid else share,
        "tokens": tokens.valid.sum(0).tolist(),
    }


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
