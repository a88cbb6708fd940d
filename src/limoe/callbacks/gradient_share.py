"""Share of each loss in the gradient of the routers."""

from typing import Any, cast

import lightning as L
import torch
from jaxtyping import Float
from torch import Tensor, nn

from limoe.errors import require_argument
from limoe.routing.base import routers_of
from limoe.training.lit_module import LIMoEModule


class GradientShare(L.Callback):
    """Log `train/grad_share/<name>` of each active term and of `contrastive` every `every_n_steps` optimizer steps.

    share of i = ||g_i|| / sum_j ||g_j||, with g_i the gradient of part i of the loss, weights and schedules included,
    with respect to the weights of all routers together. Shares sum to 1. They compare norms, not directions: opposite
    gradients both count in full. `train/router_grad_norm` is the norm of the sum.

    Training is unchanged: gradients are taken before the step's own backward, of the routers' weights alone, and
    are not accumulated. Each part costs about a quarter of a backward pass (no gradient of any other weight is
    needed), so with six losses a recorded step lasts about twice as long. Of accumulated batches the first is recorded,
    and each rank records its own. Models compiled with donated buffers refuse a second backward.

    Args:
        every_n_steps: optimizer steps between two records.
    """

    def __init__(self, *, every_n_steps: int = 50) -> None:
        require_argument(every_n_steps >= 1, "every_n_steps", ">= 1", every_n_steps)
        self.every_n_steps = every_n_steps
        self._last_step = 0

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        step = trainer.global_step + 1  # the one that this batch belongs to
        weights = router_weights(cast(Any, pl_module).model)
        if step % self.every_n_steps or step == self._last_step or not weights:
            return
        self._last_step = step
        shares, norm = gradient_shares(cast(LIMoEModule, pl_module).loss_parts, weights)
        pl_module.log_dict({f"train/grad_share/{name}": share for name, share in shares.items()})
        pl_module.log("train/router_grad_norm", norm)


def router_weights(model: nn.Module) -> list[nn.Parameter]:
    """Every trainable parameter of the routers."""
    return [p for router in routers_of(model) for p in router.parameters() if p.requires_grad]


def gradient_shares(
    parts: dict[str, Tensor], weights: list[nn.Parameter]
) -> tuple[dict[str, Float[Tensor, ""]], Float[Tensor, ""]]:
    """Share of each part (all 0 where no part has a gradient), and the norm of the gradient of their sum."""
    gradients = {name: _gradient(part, weights) for name, part in parts.items()}
    norms = {name: gradient.norm() for name, gradient in gradients.items()}
    total = torch.stack(list(norms.values())).sum()
    total = total.clamp_min(torch.finfo(torch.float32).tiny)
    shares = {name: norm / total for name, norm in norms.items()}
    summed = torch.stack(list(gradients.values())).sum(0)
    return shares, summed.norm()


def _gradient(part: Tensor, weights: list[nn.Parameter]) -> Float[Tensor, "N"]:
    """Gradient of `part` by all weights, flattened; the graph is retained for the step's own backward."""
    if not part.requires_grad:
        return torch.zeros(sum(w.numel() for w in weights), device=part.device)
    gradients = torch.autograd.grad(part, weights, retain_graph=True, allow_unused=True, materialize_grads=True)
    return torch.cat([gradient.flatten().float() for gradient in gradients])
