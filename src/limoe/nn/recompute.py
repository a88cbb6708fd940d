"""Activation recomputation: keep the inputs of a part of the model and compute the rest again in the backward."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, TypeVar

from torch import nn
from torch.utils.checkpoint import checkpoint

from limoe.nn.step_update import StepUpdated

T = TypeVar("T")


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
