"""Rank, world size, a gather and a sum that keep gradients. All works without a process group (world size 1)."""

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


class _AllGather(torch.autograd.Function):
    """Concatenation over ranks; the backward sums the gradients that all ranks have for this rank's rows."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        grad = grad.contiguous()
        dist.all_reduce(grad)
        return grad.chunk(dist.get_world_size())[dist.get_rank()]


def all_gather(x: Float[Tensor, "B ..."]) -> Float[Tensor, "BW ..."]:
    """Rows of all ranks in rank order, with gradient. Every rank must bring the same number of rows.

    Without the gradient two ranks would not compute the gradient of one process with the joint batch.
    """
    return _AllGather.apply(x) if world_size() > 1 else x


def all_reduce_sum(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Sum over all ranks, with gradient: a loss of the sum, averaged over ranks as DDP does, is that of one process.

    Adds in rank order, so the sum is the same on every rank to the last bit. For small tensors: each rank holds all.
    """
    return all_gather(x[None]).sum(0)
