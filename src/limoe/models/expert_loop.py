"""One product per expert over its slice of the sorted rows."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable


def expert_loop(
    rows: Float[Tensor, "N D"],
    counts: list[int],
    weight_in: Float[Tensor, "E D H"],
    bias_in: Float[Tensor, "E H"],
    weight_out: Float[Tensor, "E H D"],
    bias_out: Float[Tensor, "E D"],
) -> Float[Tensor, "N D"]:
    """`counts[e]` rows through expert e; rows after the last of them stay uninitialised, here and in the gradient.

    Results are written in place, so there is no gradient of a whole stack per expert. The backward holds the hidden
    gradient of one expert at a time.
    """
    return _ExpertLoop.apply(rows, counts, weight_in, bias_in, weight_out, bias_out)


class _ExpertLoop(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        counts: list[int],
        weight_in: Tensor,
        bias_in: Tensor,
        weight_out: Tensor,
        bias_out: Tensor,
    ) -> Tensor:
        hidden_dim = weight_in.shape[2]
        # [N, H] before and after the GELU
        before = rows.new_empty(len(rows), hidden_dim)
        hidden = rows.new_empty(len(rows), hidden_dim)
        out = torch.empty_like(rows)
        for e, own in enumerate(_slices(counts)):
            torch.addmm(bias_in[e], rows[own], weight_in[e], out=before[own])
            torch.ops.aten.gelu.out(before[own], approximate="tanh", out=hidden[own])
            torch.addmm(bias_out[e], hidden[own], weight_out[e], out=out[own])
        ctx.save_for_backward(rows, before, hidden, weight_in, weight_out)
        ctx.counts = counts
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, before, hidden, weight_in, weight_out = ctx.saved_tensors
        num_experts, dim, hidden_dim = weight_in.shape
        grad_rows = torch.empty_like(rows)
        grad_weight_in = torch.empty_like(weight_in)
        grad_weight_out = torch.empty_like(weight_out)
        grad_bias_in = grad.new_empty(num_experts, hidden_dim)
        grad_bias_out = grad.new_empty(num_experts, dim)
        for e, own in enumerate(_slices(ctx.counts)):
            # the second product
            torch.mm(hidden[own].T, grad[own], out=grad_weight_out[e])
            torch.sum(grad[own], 0, out=grad_bias_out[e])
            grad_hidden = grad[own] @ weight_out[e].T
            # the GELU, in place
            torch.ops.aten.gelu_backward.grad_input(
                grad_hidden, before[own], approximate="tanh", grad_input=grad_hidden
            )
            # the first product
            torch.mm(rows[own].T, grad_hidden, out=grad_weight_in[e])
            torch.sum(grad_hidden, 0, out=grad_bias_in[e])
            torch.mm(grad_hidden, weight_in[e].T, out=grad_rows[own])
        return grad_rows, None, grad_weight_in, grad_bias_in, grad_weight_out, grad_bias_out


def _slices(counts: list[int]) -> list[slice]:
    """The rows of each expert."""
    slices = []
    start = 0
    for count in counts:
        slices.append(slice(start, start + count))
        start += count
    return slices
