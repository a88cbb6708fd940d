"""Slots of the experts of a tower, and whether they would reveal a collapse of text."""

from typing import Any

from limoe.accounting.anatomy import TowerPart
from limoe.types import MODALITIES


def capacity(part: TowerPart, *, pairs: int) -> dict[str, Any]:
    """Slots of the experts of one tower in training (its first sparse layer; all have one configuration).

    A capacity factor of 1 gives as many slots as assignments.
    """
    router = part.sparse[0].router
    usage = router.usage(part.lengths, pairs=pairs)
    group = usage.pairs_per_group
    return {
        "tokens": "+".join(part.lengths),
        "sparse_layers": len(part.sparse),
        "experts": router.num_experts,
        "experts_per_token": usage.experts_per_token,
        "pairs_per_group": group,
        "tokens_per_group": None if group is None else group * part.tokens_per_pair,
        "slots_per_expert": usage.slots,
        "capacity_factor": None if router.capacity is None else router.capacity.capacity_factor,
        "effective_capacity_factor": usage.effective_capacity_factor,
    }


def collapse(part: TowerPart, *, pairs: int) -> dict[str, Any]:
    """Share of the text tokens that get a slot when all choose the same K experts and no image token chooses them.

    Counts every text token as real; with padding there are fewer, and a collapse drops tokens only later.
    """
    router = part.sparse[0].router
    usage = router.usage(part.lengths, pairs=pairs)
    result = {"experts_text_needs": None, "experts": router.num_experts, "best_text_success": None, "visible": None}
    if not router.tokens_choose:
        return result | {"says": "Experts choose their tokens: text cannot overload one of them."}
    if usage.slots is None or usage.pairs_per_group is None:
        return result | {"visible": False, "says": "Collapse is invisible in this set-up: slots have no limit."}
    text = usage.pairs_per_group * part.lengths[MODALITIES[1]]  # tokens of a group
    success = min(1.0, usage.slots / text)
    experts = usage.experts_per_token
    chosen = "one expert" if experts == 1 else f"the same {experts:g} experts"
    says = f"Collapse is visible in this set-up: if all text took {chosen}, {success:.0%} of it would get a slot."
    if success == 1:
        says = f"Collapse is invisible in this set-up: {chosen} can take all text of a group, so success stays at 100%."
    return {
        "experts_text_needs": text * experts / usage.slots,
        "experts": router.num_experts,
        "best_text_success": success,
        "visible": success < 1,
        "says": says,
    }
