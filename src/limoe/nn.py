"""Small extensions of `torch.nn`: an initialisation, state that moves once per step, activation recomputation."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

T = TypeVar("T")

_CUT = 2.0  # standard deviations
_INSIDE = math.erf(_CUT / math.sqrt(2))  # share of a normal distribution within the cut
_STD_OF_CUT_NORMAL = 0.87962566103423978


@torch.no_grad()
def lecun_normal_(weight: Tensor) -> Tensor:
    """Normal of variance 1 / fan_in, cut off at two standard deviations (flax's; value for value that of timm).

    The fan is that of one output: all dimensions but the first. By the inverse of the distribution function, without a
    branch on values, so it works on meta and fake tensors too.
    """
    if weight.is_meta:  # nothing to fill, and erfinv_ would import the compiler
        return weight
    std = math.prod(weight.shape[1:]) ** -0.5 / _STD_OF_CUT_NORMAL
    return weight.uniform_(-_INSIDE, _INSIDE).erfinv_().mul_(math.sqrt(2)).clamp_(-_CUT, _CUT).mul_(std)


class StepUpdated(nn.Module, ABC):
    """A module with state that an optimizer does not move, such as the bias of loss-free load balancing.

    A subclass counts in `forward` what its rule needs, only while `counting` is True, and applies the rule in
    `after_step`. `limoe.training.lit_module` calls it for every such module after each optimizer step, and
    `recomputed` sets `counting` to False while it computes activations a second time.

    Attributes:
        counting: whether a forward pass counts.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counting = True

    @abstractmethod
    def after_step(self) -> None:
        """Move the state by what was counted since the last call, and set the counts to zero."""


def recomputed(function: Callable[..., T], *inputs: Any) -> T:
    """`function(*inputs)` without keeping its activations, which the backward computes again.

    The second time random numbers are those of the first, so routers choose the same experts, and `counting` of each
    `StepUpdated` module is False, since it has counted these tokens already.
    """
    return checkpoint(
        function,
        *inputs,
        use_reentrant=False,
        preserve_rng_state=True,
        context_fn=lambda: (nullcontext(), _WithoutCounting(function)),
    )


class _WithoutCounting:
    """A class, since one backward per loss (`GradientShare`) enters it more than once."""

    def __init__(self, function: Callable[..., Any]) -> None:
        modules = function.modules() if isinstance(function, nn.Module) else ()
        self._counters = [module for module in modules if isinstance(module, StepUpdated)]
        self._before: list[bool] = []

    def __enter__(self) -> None:
        self._before = [counter.counting for counter in self._counters]
        for counter in self._counters:
            counter.counting = False

    def __exit__(self, *_: object) -> None:
        for counter, counting in zip(self._counters, self._before, strict=True):
            counter.counting = counting
