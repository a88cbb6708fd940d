"""Differentiable gathers between tokens and the rows of their experts.

A token has K rows, or fewer where it was dropped; a row has one token. So both directions, forward and backward, are
gathers: no atomic addition, hence the same last digit whatever the device does first.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable


def rows_of_tokens(
    x: Float[Tensor, "T D"], *, token: Int[Tensor, "N"], row: Int[Tensor, "T K"], kept: Bool[Tensor, "T K"]
) -> Float[Tensor, "N D"]:
    """out[r] = x[token[r]].

    The backward adds up the rows `row[t, k]` of each token where `kept`; autograd's own would scatter.
    """
    return _RowsOfTokens.apply(x, token, row, kept)


def tokens_of_rows(
    rows: Float[Tensor, "N D"],
    weight: Float[Tensor, "T K"],
    *,
    row: Int[Tensor, "T K"],
    token: Int[Tensor, "N"],
    assignment: Int[Tensor, "N"],
    filled: Bool[Tensor, "N"],
) -> Float[Tensor, "T D"]:
    """out[t] = sum_k weight[t, k] * rows[row[t, k]].

    The backward gives row r the gradient of its token `token[r]`, times the weight of its assignment, numbered
    choice * T + token; 0 where the row is not `filled`.
    """
    return _TokensOfRows.apply(rows, weight, row, token, assignment, filled)


class _RowsOfTokens(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, token: Tensor, row: Tensor, kept: Tensor) -> Tensor:
        ctx.save_for_backward(row, kept)
        return x.index_select(0, token)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        row, kept = ctx.saved_tensors
        grad_x = _weighted_gather(grad, row, kept.to(grad.dtype))
        return grad_x, None, None, None


class _TokensOfRows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, weight: Tensor, row: Tensor, token: Tensor, assignment: Tensor, filled: Tensor
    ) -> Tensor:
        ctx.save_for_backward(rows, weight, row, token, assignment, filled)
        return _weighted_gather(rows, row, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, row, token, assignment, filled = ctx.saved_tensors

        # [N, D] the gradient of each row's token, still without its weight
        grad_rows = grad.index_select(0, token)

        # [T, K] the gradient of a weight is the product of its row with that gradient
        grad_weight = None
        if ctx.needs_input_grad[1]:
            products = torch.linalg.vecdot(grad_rows, rows.to(grad.dtype))
            grad_weight = products[row].to(weight.dtype)

        # [N] the weight of each row, 0 for empty ones
        row_weight = weight.T.reshape(-1).index_select(0, assignment) * filled
        grad_rows = grad_rows.mul_(row_weight[:, None]).to(rows.dtype)
        return grad_rows, grad_weight, None, None, None, None


def _weighted_gather(rows: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """sum_k weight[t, k] * rows[index[t, k]] in the wider of both types, choice by choice."""
    num_choices = index.shape[1]
    total = _of_choice(rows, index, weight, 0)
    for choice in range(1, num_choices):
        total += _of_choice(rows, index, weight, choice)
    return total


def _of_choice(rows: Tensor, index: Tensor, weight: Tensor, choice: int) -> Tensor:
    chosen = rows.index_select(0, index[:, choice])
    return chosen * weight[:, choice, None]
