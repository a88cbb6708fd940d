"""Who would lose a seat in training, and where such tokens stand."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from limoe.atlas.collect import Tokens, in_rows, route
from limoe.atlas.settings import RUN
from limoe.routing.base import Router
from limoe.routing.priority import get_priority
from limoe.routing.token_choice import SeatedRouter
from limoe.types import IMAGE, MODALITIES, Batch


@contextmanager
def training_seats(model: nn.Module, *, capacity_factor: float | str | None, priority: str) -> Iterator[None]:
    """Evaluation with limited seats: by default those of training and its priority. Noise stays off.

    Raises:
        ConfigError: there is no such priority.
    """
    routers = [module for module in model.modules() if isinstance(module, Router)]
    before = [dict(vars(router)) for router in routers]
    try:
        for router in routers:
            own = router.capacity_factor if isinstance(capacity_factor, str) else capacity_factor
            router.eval_capacity_factor = own
            if isinstance(router, SeatedRouter):
                router.eval_priority = router.priority if priority == RUN else get_priority(priority)
        yield
    finally:
        for router, settings in zip(routers, before, strict=True):
            vars(router).update(settings)


def has_seats(model: nn.Module) -> bool:
    """Whether some router limits seats in training."""
    return any(isinstance(m, Router) and m.capacity_factor is not None for m in model.modules())


def seats_line(model: nn.Module, *, capacity_factor: float | str | None, priority: str) -> str:
    """Who shares how many seats, and who sits first, in words."""
    router = next(m for m in model.modules() if isinstance(m, Router))
    factor = f"the seats of training (factor {router.capacity_factor})"
    line = factor if capacity_factor == RUN else f"seats by factor {capacity_factor}"
    line += f" shared by {router.pairs_per_group or 'all'} pairs"
    if not isinstance(router, SeatedRouter):
        return line
    own = getattr(router.priority, "func", router.priority)
    return f"{line}, and {f'its priority ({own.__name__})' if priority == RUN else f'priority {priority}'}"


def drops(
    model: nn.Module, batches: Sequence[Batch], *, capacity_factor: float | str | None, priority: str
) -> dict[int, dict[str, Any]]:
    """By layer: `seats` of each expert and group, and by modality the share of assignments without one.

    `dropped` is over all, `by_position` over the sequences (image: rows of the grid; None where nobody stands),
    `tokens` counts the real tokens of each position. Seats are shared inside each of the batches.
    """
    pairs = sum(len(batch.images) for batch in batches)
    with training_seats(model, capacity_factor=capacity_factor, priority=priority):
        routing = route(model, batches, name="drops")
    found: dict[int, dict[str, Any]] = {}
    for layer, routed in routing.items():
        found[layer] = {"seats": routed.capacity}
        for modality in routed.modalities:
            tokens = Tokens.of(routed, modality, sequences=pairs)
            found[layer][MODALITIES[modality]] = _by_position(tokens, is_grid=modality == IMAGE)
    return found


def _by_position(tokens: Tokens, *, is_grid: bool) -> dict[str, Any]:
    wanted = tokens.valid[..., None].expand_as(tokens.seated)
    lost = (wanted & ~tokens.seated).sum((0, 2))
    asked = wanted.sum((0, 2))
    share = [_ratio(a, b) for a, b in zip(lost.tolist(), asked.tolist(), strict=True)]
    return {
        "dropped": _ratio(lost.sum().item(), asked.sum().item()),
        "by_position": in_rows(share) if is_grid else share,
        "tokens": tokens.valid.sum(0).tolist(),
    }


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
