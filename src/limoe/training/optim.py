"""Optimizers over the parameters of a module. Weight decay reaches matrices only: linear, patch, router, expert.

PyTorch's and timm's optimizers shrink a matrix by lr * weight_decay per step, and lr follows the schedule. big_vision
shrinks by wd * schedule, without the peak rate: its wd 1e-4 at peak lr 1e-3 is weight_decay 1e-4 / 1e-3 = 0.1 here, and
changing the peak rate changes the decay here, not there.
"""

from collections.abc import Sequence

import torch
from timm.optim import AdafactorBigVision, create_optimizer_v2
from torch import nn
from torch.optim import Optimizer

from limoe.errors import require_argument


def parameter_groups(module: nn.Module, *, weight_decay: float) -> list[dict]:
    """Two groups: matrices with decay, everything else (biases, norms, positions, token table, logit_scale) without.

    The rule is big_vision's "kernels only". It goes by name too, since stacked expert biases have two axes as well.
    Parameters that are locked (`requires_grad=False`) are in neither.
    """
    decayed: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            is_matrix = "weight" in name and parameter.ndim > 1 and not isinstance(part, nn.Embedding)
            if parameter.requires_grad:
                (decayed if is_matrix else rest).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


def _check(*, lr: float, weight_decay: float, betas: Sequence[float] = ()) -> None:
    require_argument(lr > 0, "lr", "> 0", lr)
    require_argument(weight_decay >= 0, "weight_decay", ">= 0", weight_decay)
    require_argument(all(0 <= beta < 1 for beta in betas), "betas", "in [0, 1)", list(betas))


def adamw(
    module: nn.Module, *, lr: float, weight_decay: float = 0.1, betas: Sequence[float] = (0.9, 0.999), eps: float = 1e-8
) -> Optimizer:
    """Fused AdamW."""
    _check(lr=lr, weight_decay=weight_decay, betas=betas)
    groups = parameter_groups(module, weight_decay=weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(betas[0], betas[1]), eps=eps, fused=True)
    optimizer._step_supports_amp_scaling = False  # else Lightning refuses to clip in mixed precision, bfloat16 included
    return optimizer


def adafactor(module: nn.Module, *, lr: float, weight_decay: float = 0.1, beta1: float = 0.9) -> Optimizer:
    """big_vision's Adafactor as timm has it (`adafactorbv`): factored second moment, bfloat16 momentum, no clipping."""
    _check(lr=lr, weight_decay=weight_decay)
    require_argument(0 <= beta1 < 1, "beta1", "in [0, 1)", beta1)
    groups = parameter_groups(module, weight_decay=weight_decay)
    # built directly: timm's factory would ignore `betas` here; 32 is the reference's limit, timm's default is 16
    return AdafactorBigVision(groups, lr=lr, momentum=beta1, min_dim_size_to_factor=32)


def lion(module: nn.Module, *, lr: float, weight_decay: float = 1.0, betas: Sequence[float] = (0.9, 0.99)) -> Optimizer:
    """Lion (timm); its usual rate is a tenth of AdamW's, its decay ten times."""
    _check(lr=lr, weight_decay=weight_decay, betas=betas)
    groups = parameter_groups(module, weight_decay=weight_decay)
    return create_optimizer_v2(groups, opt="lion", lr=lr, weight_decay=0.0, betas=(betas[0], betas[1]))
