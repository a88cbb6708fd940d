"""The numbers that `limoe info` prints about a model, by name."""

from typing import Any

from limoe.accounting.anatomy import Anatomy, anatomy
from limoe.accounting.capacity import capacity, collapse
from limoe.accounting.flops import flops
from limoe.accounting.memory import memory
from limoe.accounting.parameters import parameters
from limoe.models.limoe import LIMoE
from limoe.models.two_tower import TwoTower

_ROUTED_NOTHING = {"slots_per_expert": None, "says": "No sparse layer: no tokens compete for experts."}
_NO_TEXT = {"experts_text_needs": None, "visible": None, "says": "No sparse layer sees text."}


def summary(model: LIMoE | TwoTower, *, pairs: int, **run: Any) -> dict[str, Any]:
    """Parameters, FLOPs, slots, collapse and memory of a step with `pairs` pairs; `run`: see `memory`."""
    parts = anatomy(model)
    return {
        "params": parameters(model, parts, pairs=pairs),
        "tokens": {name: part.lengths[name] for part in parts.towers for name in part.lengths},
        "flops": flops(parts, pairs=pairs),
        **_routing(parts, pairs=pairs),
        "memory": memory(model, parts, pairs=pairs, **run),
    }


def _routing(parts: Anatomy, *, pairs: int) -> dict[str, Any]:
    """Slots of the tower that text passes, else of the other one; `towers` lists both where both are sparse."""
    sparse = [part for part in parts.towers if part.sparse]
    if not sparse:
        return {"capacity": _ROUTED_NOTHING, "collapse": _NO_TEXT}
    slots = [capacity(part, pairs=pairs) for part in sparse]
    text = [part for part in sparse if "text" in part.lengths]
    main = slots[sparse.index(text[0])] if text else slots[0]
    others = {"towers": {each["tokens"]: each for each in slots}} if len(slots) > 1 else {}
    return {"capacity": main | others, "collapse": collapse(text[0], pairs=pairs) if text else _NO_TEXT}


def baseline(model: LIMoE | TwoTower, of: dict[str, Any], *, pairs: int) -> dict[str, Any]:
    """Cost of a baseline of the model with summary `of`; `ratio`: forward FLOPs per pair of that model over these."""
    parts = anatomy(model)
    work = flops(parts, pairs=pairs)
    params = parameters(model, parts, pairs=pairs)
    return {
        "params": {name: params[name] for name in ("total", "active_per_token")},
        "flops": work,
        "ratio": of["flops"]["pair"] / work["pair"],
        "train_ratio": of["flops"]["train_pair"] / work["train_pair"],
    }
