"""The leak of limited slots: dropped tokens that tell images and texts which pair of the batch they belong to."""

from torch import nn

from limoe.routing.base import routers_of
from limoe.routing.priority import PRIORITIES


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
