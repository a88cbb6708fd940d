"""Rows that experts compute, seats they have, and whether a collapse of text would show in them."""

from typing import Any, NamedTuple

from limoe.accounting.anatomy import TowerPart
from limoe.errors import ConfigError
from limoe.routing.base import Router
from limoe.routing.expert_choice import ExpertChoiceRouter
from limoe.routing.soft import SoftRouter
from limoe.routing.token_choice import SeatedRouter
from limoe.types import MODALITIES


class Rows(NamedTuple):
    """Rows of all experts of one layer per pair: `needed` by modality, if every token gets its experts and no more;
    `computed` in all, with every seat, taken or not (the padded way; equal to needed where seats have no limit)."""

    needed: dict[str, float]
    computed: float


def expert_rows(router: Any, part: TowerPart, *, pairs: int) -> Rows:
    """Of a layer in training, with a batch of `pairs`.

    Raises:
        ConfigError: a router of a kind that is not known here.
    """
    experts = router.num_experts
    if isinstance(router, SoftRouter):
        rows = dict.fromkeys(part.lengths, float(experts * router.slots_per_expert))
        return Rows(rows, sum(rows.values()))
    per_token, seats = experts_per_token(router, part, pairs=pairs), seats_per_pair(router, part, pairs=pairs)
    needed = {name: per_token * length for name, length in part.lengths.items()}
    return Rows(needed, sum(needed.values()) if seats is None else experts * seats)


def experts_per_token(router: Any, part: TowerPart, *, pairs: int) -> float:
    """How many experts compute a token, on average if nobody is dropped."""
    if isinstance(router, SoftRouter):
        return router.num_experts  # every token has a part in every slot
    if isinstance(router, ExpertChoiceRouter):
        seats = seats_per_pair(router, part, pairs=pairs)
        return router.num_experts if seats is None else router.num_experts * seats / part.tokens_per_pair
    return _choices(router)


def seats_per_pair(router: Router, part: TowerPart, *, pairs: int) -> float | None:
    """Seats of one expert, shared out to the pairs of a group; None = no limit."""
    group = router.group_size(pairs)
    seats = router.seats(group * part.tokens_per_pair, k=_choices(router))
    return None if seats is None else seats / group


def _choices(router: Any) -> int:
    if not isinstance(router, (SeatedRouter, ExpertChoiceRouter)):
        raise ConfigError(f"routing: the seats of {type(router).__name__} are not known to limoe info")
    return getattr(router, "k", 1)


def capacity(part: TowerPart, *, pairs: int) -> dict[str, Any]:
    """Seats of the routers of one tower in training (its first sparse layer; all have one configuration).

    Factors are in fair shares: 1 is as many seats as assignments.
    """
    router: Any = part.sparse[0].router
    found: dict[str, Any] = {
        "tokens": "+".join(part.lengths),
        "sparse_layers": len(part.sparse),
        "experts": router.num_experts,
        "experts_per_token": experts_per_token(router, part, pairs=pairs),
    }
    if isinstance(router, SoftRouter):
        names = ("pairs_per_group", "tokens_per_group", "capacity_factor", "effective_capacity_factor")
        return found | dict.fromkeys(names) | {"seats_per_expert": router.slots_per_expert}
    group = router.group_size(pairs)
    tokens = group * part.tokens_per_pair
    seats = router.seats(tokens, k=_choices(router))
    factor = None if seats is None else seats * router.num_experts / (tokens * _choices(router))
    return found | {
        "pairs_per_group": group,
        "tokens_per_group": tokens,
        "seats_per_expert": seats,
        "capacity_factor": router.capacity_factor,
        "effective_capacity_factor": factor,
    }


def collapse(part: TowerPart, *, pairs: int) -> dict[str, Any]:
    """If all text took one expert (its K experts) and images left it alone, how much of it would get a seat?

    Counts every text token as real; with padding there is less text, and a collapse shows later.
    """
    router: Any = part.sparse[0].router
    found = capacity(part, pairs=pairs)
    experts, seats = found["experts"], found["seats_per_expert"]
    result = {"experts_text_needs": None, "experts": experts, "best_text_success": None, "visible": None}
    if not isinstance(router, SeatedRouter):
        return result | {"says": "Experts choose what they compute: text cannot crowd one of them."}
    if seats is None:
        return result | {"visible": False, "says": "Collapse is invisible in this set-up: seats have no limit."}
    text = found["pairs_per_group"] * part.lengths[MODALITIES[1]]
    needs, success = text * _choices(router) / seats, min(1.0, seats / text)
    result |= {"experts_text_needs": needs, "best_text_success": success, "visible": success < 1}
    return result | {"says": _sentence(success, experts=_choices(router))}


def _sentence(success: float, *, experts: int) -> str:
    crowd = "one expert" if experts == 1 else f"the same {experts} experts"
    if success < 1:
        return f"Collapse is visible in this set-up: if all text took {crowd}, {success:.0%} of it would get a seat."
    return f"Collapse is invisible in this set-up: {crowd} can seat all text of a group, so success stays at 100%."
