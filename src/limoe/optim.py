"""Optimizers over the parameters of a model. Weight decay reaches matrices only: linear, patch, router, expert."""

from collections.abc import Sequence

import torch
from timm.optim import AdafactorBigVision, create_optimizer_v2
from torch import nn
from torch.optim import Optimizer

from limoe.errors import require

_UNDECAYED = (nn.LayerNorm, nn.Embedding)


def parameter_groups(model: nn.Module, *, weight_decay: float) -> list[dict]:
    """Two groups: matrices with decay, everything else (biases, norms, positions, token table, logit_scale) without.

    The rule is big_vision's "kernels only". It goes by name, since stacked expert biases are two-dimensional too.
    """
    decayed: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            is_matrix = name.startswith("weight") and not isinstance(module, _UNDECAYED)
            (decayed if is_matrix else rest).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


def _check(lr: float, weight_decay: float, betas: Sequence[float]) -> None:
    require(lr > 0, "optimizer.lr", "> 0", lr)
    require(weight_decay >= 0, "optimizer.weight_decay", ">= 0", weight_decay)
    require(all(0 <= beta < 1 for beta in betas), "optimizer.betas", "in [0, 1)", list(betas))


def adamw(
    model: nn.Module, *, lr: float, weight_decay: float = 0.1, betas: Sequence[float] = (0.9, 0.999), eps: float = 1e-8
) -> Optimizer:
    """Fused AdamW. PyTorch decays by lr * weight_decay: the reference's 1e-4 at peak lr 1e-3 is 0.1 here."""
    _check(lr, weight_decay, betas)
    groups = parameter_groups(model, weight_decay=weight_decay)
    return torch.optim.AdamW(groups, lr=lr, betas=(betas[0], betas[1]), eps=eps, fused=True)


def adafactor(model: nn.Module, *, lr: float, weight_decay: float = 0.1, beta1: float = 0.9) -> Optimizer:
    """big_vision's Adafactor as timm has it (`adafactorbv`): factored second moment, bfloat16 momentum, no clipping."""
    _check(lr, weight_decay, [beta1])
    groups = parameter_groups(model, weight_decay=weight_decay)
    # built directly: timm's factory would ignore `betas` here; 32 is the reference's limit, timm's default is 16
    return AdafactorBigVision(groups, lr=lr, momentum=beta1, min_dim_size_to_factor=32)


def lion(model: nn.Module, *, lr: float, weight_decay: float = 1.0, betas: Sequence[float] = (0.9, 0.99)) -> Optimizer:
    """Lion (timm); its usual rate is a tenth of AdamW's, its decay ten times."""
    _check(lr, weight_decay, betas)
    groups = parameter_groups(model, weight_decay=weight_decay)
    return create_optimizer_v2(groups, opt="lion", lr=lr, weight_decay=0.0, betas=(betas[0], betas[1]))
