"""Three ways to multiply the rows of each expert with its weights, equal in value and gradient, and which one to take.

`padded`   one batched product over buffers [E, S, D]: nothing depends on the data, so nothing waits for the device and
           it compiles into one graph; empty slots are computed too. Without a capacity it pads the sorted rows first,
           which waits for the device once.
`grouped`  torch's grouped product over sorted rows: no empty rows, and nothing waits for the device where torch has a
           kernel (bfloat16 on NVIDIA Hopper and data-center Blackwell); elsewhere torch itself loops over the experts.
`loop`     one product per expert over its slice of the sorted rows: any device and type, waits for the device once.

Buffers are always multiplied by `padded`: no row could be saved.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.utils.rnn import pad_sequence

from limoe.types import BUFFERS, SORTED, Dispatcher, ExpertTokens

BACKENDS = ("auto", "padded", "grouped", "loop")
# On a CPU `loop` is faster where `padded` computes more than this many times the sorted rows. The limit is lower for
# experts with at least MANY_ROWS rows.
MANY_ROWS = 400
WASTE_AT_MANY = 1.06
WASTE_AT_FEW = 1.25


class ExpertWeights(NamedTuple):
    """Stacked parameters of E MLPs D -> H -> D, all of one type."""

    weight_in: Float[Tensor, "E D H"]
    bias_in: Float[Tensor, "E H"]
    weight_out: Float[Tensor, "E H D"]
    bias_out: Float[Tensor, "E D"]


def select_layout(backend: str, dispatcher: Dispatcher, *, weight: Float[Tensor, "E D H"], dtype: torch.dtype) -> str:
    """The layout that suits the backend best, of those that the dispatcher offers."""
    if len(dispatcher.num_rows) == 1:
        (only,) = dispatcher.num_rows
        return only
    if backend == "padded":
        return BUFFERS
    if backend != "auto" or _has_grouped_kernel(dtype, weight.device):
        return SORTED
    if weight.device.type != "cpu" or torch.compiler.is_compiling():
        return BUFFERS  # sorted rows would wait for the device, or break the graph
    has_many_rows = dispatcher.num_rows[SORTED] >= MANY_ROWS * len(weight)
    allowed_waste = WASTE_AT_MANY if has_many_rows else WASTE_AT_FEW
    return SORTED if dispatcher.num_rows[BUFFERS] > allowed_waste * dispatcher.num_rows[SORTED] else BUFFERS


def run_experts(expert_tokens: ExpertTokens, *, weights: ExpertWeights, backend: str) -> ExpertTokens:
    """Every row through its expert; sorted rows after the last expert's come back with anything in them."""
    rows, offsets = expert_tokens
    if offsets is None:
        return ExpertTokens(_padded(rows, weights))

    # sorted rows
    backend = _select_sorted_backend(backend, weights.weight_in)
    if backend == "grouped":
        return ExpertTokens(_grouped(rows, offsets, weights), offsets)
    counts = offsets.diff(prepend=offsets.new_zeros(1)).tolist()  # waits for the device
    if backend == "padded":
        return ExpertTokens(_pad_sorted(rows, counts, weights), offsets)
    return ExpertTokens(expert_loop(rows, counts, weights), offsets)


def _select_sorted_backend(backend: str, weight: Float[Tensor, "E D H"]) -> str:
    """How sorted rows are multiplied: as asked for, unless torch cannot."""
    if backend == "padded":
        return "padded"
    is_fast = backend == "auto" and _has_grouped_kernel(weight.dtype, weight.device)
    if (backend == "grouped" or is_fast) and _torch_can_group(weight):
        return "grouped"
    return "loop"


def _has_grouped_kernel(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether torch has a kernel for grouped products that does not loop over the experts."""
    if device.type != "cuda" or dtype != torch.bfloat16:
        return False
    return torch.cuda.get_device_capability(device)[0] in (9, 10)


def _torch_can_group(weight: Float[Tensor, "E D H"]) -> bool:
    """torch groups no float64, and requires rows of a multiple of 16 bytes."""
    _, dim, hidden_dim = weight.shape
    bytes_per_number = weight.element_size()
    is_aligned = dim * bytes_per_number % 16 == 0 and hidden_dim * bytes_per_number % 16 == 0
    return is_aligned and weight.dtype in (torch.float32, torch.bfloat16, torch.float16)


def _padded(rows: Float[Tensor, "E S D"], weights: ExpertWeights) -> Float[Tensor, "E S D"]:
    bias_in = weights.bias_in[:, None]  # E, 1, H
    bias_out = weights.bias_out[:, None]  # E, 1, D

    # [E, S, H], then [E, S, D]
    hidden = torch.baddbmm(bias_in, rows, weights.weight_in)
    hidden = F.gelu(hidden, approximate="tanh")
    return torch.baddbmm(bias_out, hidden, weights.weight_out)


def _pad_sorted(rows: Float[Tensor, "N D"], counts: list[int], weights: ExpertWeights) -> Float[Tensor, "N D"]:
    """Pad sorted rows to [E, S, D], S = rows of the fullest expert, and multiply."""
    # [E, S, D] the rows of each expert, filled up with zeros; rows after the last expert's stay as they are
    unused = len(rows) - sum(counts)
    *parts, rest = rows.split([*counts, unused])
    padded = pad_sequence(parts, batch_first=True)
    out = _padded(padded, weights)

    # [N, D] without the filling
    unpadded = [of_expert[:count] for of_expert, count in zip(out, counts, strict=True)]
    return torch.cat([*unpadded, rest])


def _grouped(rows: Float[Tensor, "N D"], offsets: Int[Tensor, "E"], weights: ExpertWeights) -> Float[Tensor, "N D"]:
    # [N] the expert of each row; rows that belong to no expert read the bias of the last one
    position = torch.arange(len(rows), device=rows.device, dtype=offsets.dtype)
    expert = torch.searchsorted(offsets, position, right=True)
    expert = expert.clamp_max(len(offsets) - 1)

    # [N, H]
    hidden = F.grouped_mm(rows, weights.weight_in, offs=offsets)
    hidden = _AddBias.apply(hidden, weights.bias_in, expert, offsets)
    hidden = F.gelu(hidden, approximate="tanh")

    # [N, D]
    out = F.grouped_mm(hidden, weights.weight_out, offs=offsets)
    return _AddBias.apply(out, weights.bias_out, expert, offsets)


class _AddBias(torch.autograd.Function):
    """rows + bias[expert], with a backward that reads no row after the last expert's.

    What is in those rows is not initialised, and autograd's own backward would add it to the bias of some expert. Here
    the gradient of the bias is a grouped product of ones with the gradient of the rows: it stops at the offsets, and it
    adds in a fixed order.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, bias: Tensor, expert: Tensor, offsets: Tensor) -> Tensor:
        ctx.save_for_backward(offsets)
        return rows + bias.index_select(0, expert)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (offsets,) = ctx.saved_tensors
        least_width = 16 // grad.element_size()  # torch's grouped products accept no fewer columns
        ones = grad.new_ones(len(grad), least_width).T
        grad_bias = F.grouped_mm(ones, grad, offs=offsets)[:, 0]
        return grad, grad_bias, None, None


def expert_loop(rows: Float[Tensor, "N D"], counts: list[int], weights: ExpertWeights) -> Float[Tensor, "N D"]:
    """`counts[e]` rows through expert e; rows after the last of them stay uninitialised, here and in the gradient.

    Results are written in place, so there is no gradient of a whole stack per expert. The backward holds the hidden
    gradient of one expert at a time.
    """
    return _ExpertLoop.apply(rows, counts, *weights)


class _ExpertLoop(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: list[int], *weights: Tensor) -> Tensor:
        weight_in, bias_in, weight_out, bias_out = weights
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
