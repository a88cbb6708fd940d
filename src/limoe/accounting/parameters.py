"""Number of parameters in all, and of those active for one token."""

from torch import nn

from limoe.accounting.anatomy import Anatomy


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def parameters(model: nn.Module, parts: Anatomy, *, pairs: int) -> dict[str, int]:
    """Parameter counts. `active_per_token`: all but the experts that a token does not visit, embeddings and heads of
    both modalities included, as the paper counts. `active_image`, `active_text`: those that one modality passes.
    """
    total = count(model)
    sparse = [moe for part in parts.towers for moe in part.sparse]
    return {
        "total": total,
        "active_per_token": total - _idle(parts, pairs=pairs),
        "active_image": _active(parts, "image", pairs=pairs),
        "active_text": _active(parts, "text", pairs=pairs),
        "experts": sum(count(moe.experts) for moe in sparse),
        "routers": sum(count(moe.router) for moe in sparse),
        "trained": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }


def _active(parts: Anatomy, modality: str, *, pairs: int) -> int:
    towers = parts.towers_of(modality)
    passed = [parts.embeds[modality], *(part.tower for part in towers), parts.heads[modality]]
    own = parts._replace(towers=towers)
    return sum(map(count, passed)) - _idle(own, pairs=pairs)


def _idle(parts: Anatomy, *, pairs: int) -> int:
    """Parameters of the experts that a token does not visit (with expert choice: on average)."""
    idle = 0.0
    for part in parts.towers:
        for moe in part.sparse:
            experts = len(moe.experts.weight_in)
            visited = min(experts, moe.router.usage(part.lengths, pairs=pairs).experts_per_token)
            idle += (experts - visited) * count(moe.experts) / experts
    return round(idle)
