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

    Every result is written into its place, so there is no gradient of a stack per expert, and what only lives between
    two products is as large as one slice.
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
        before, hidden = (rows.new_empty(len(rows), weight_in.shape[2]) for _ in range(2))  # the GELU
        out = torch.empty_like(rows)
        for e, at in _slices(counts):
            torch.addmm(bias_in[e], rows[at], weight_in[e], out=before[at])
            torch.ops.aten.gelu.out(before[at], approximate="tanh", out=hidden[at])
            torch.addmm(bias_out[e], hidden[at], weight_out[e], out=out[at])
        ctx.save_for_backward(rows, before, hidden, weight_in, weight_out)
        ctx.counts = counts
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, before, hidden, weight_in, weight_out = ctx.saved_tensors
        grad_rows, grad_in, grad_out = (torch.empty_like(t) for t in (rows, weight_in, weight_out))
        grad_bias_in, grad_bias_out = grad.new_empty(weight_in.shape[::2]), grad.new_empty(weight_out.shape[::2])
        for e, at in _slices(ctx.counts):
            torch.mm(hidden[at].T, grad[at], out=grad_out[e])
            torch.sum(grad[at], 0, out=grad_bias_out[e])
            grad_hidden = grad[at] @ weight_out[e].T
            torch.ops.aten.gelu_backward.grad_input(grad_hidden, before[at], approximate="tanh", grad_input=grad_hidden)
            torch.mm(rows[at].T, grad_hidden, out=grad_in[e])
            torch.sum(grad_hidden, 0, out=grad_bias_in[e])
            torch.mm(grad_hidden, weight_in[e].T, out=grad_rows[at])
        return grad_rows, None, grad_in, grad_bias_in, grad_out, grad_bias_out


def _slices(counts: list[int]) -> list[tuple[int, slice]]:
    ends = [sum(counts[: e + 1]) for e in range(len(counts))]
    return [(e, slice(end - n, end)) for e, (n, end) in enumerate(zip(counts, ends, strict=True))]
