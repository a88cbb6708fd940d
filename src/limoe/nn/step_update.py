"""State of a model that moves once per optimizer step by a rule of its own instead of a gradient."""

from abc import ABC, abstractmethod

from torch import nn


class StepUpdated(nn.Module, ABC):
    """A module with state that an optimizer does not move, such as the bias of loss-free load balancing.

    A subclass counts in `forward` what its rule needs, only while `counting` is True, and applies the rule in
    `after_step`. `limoe.training.lit_module` calls it for every such module after each optimizer step, and
    `limoe.nn.recompute` sets `counting` to False while it computes activations a second time.

    Attributes:
        counting: whether a forward pass counts.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counting = True

    @abstractmethod
    def after_step(self) -> None:
        """Move the state by what was counted since the last call, and set the counts to zero."""
