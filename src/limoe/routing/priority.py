"""Which tokens get a slot first where an expert has fewer slots than tokens that chose it.

A priority is a function (top_gate [T], tokens) -> score [T]; higher scores come first. Scores are compared as
float32 inside one expert, group and choice; equal scores keep the order of the tokens (images before texts, pair by
pair).
"""

import importlib
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from limoe.errors import ConfigError
from limoe.types import IMAGE, TEXT, PackedTokens, Segment

Priority = Callable[[Float[Tensor, "T"], PackedTokens], Float[Tensor, "T"]]


def bpr(top_gate: Float[Tensor, "T"], tokens: PackedTokens) -> Float[Tensor, "T"]:
    """Batch priority routing: the largest (noisy) gate first, both modalities together (paper section 2; V-MoE 3.3)."""
    return top_gate


def first_come(top_gate: Float[Tensor, "T"], tokens: PackedTokens) -> Float[Tensor, "T"]:
    """Order of the tokens: all image tokens of a group come before its text tokens."""
    return torch.zeros_like(top_gate)


def random(top_gate: Float[Tensor, "T"], tokens: PackedTokens) -> Float[Tensor, "T"]:
    """A fresh random order at every call (torch's global generator)."""
    return torch.rand_like(top_gate)


def image_first(top_gate: Float[Tensor, "T"], tokens: PackedTokens) -> Float[Tensor, "T"]:
    """Image tokens before text tokens."""
    return (tokens.modality == IMAGE).to(top_gate.dtype)


def text_first(top_gate: Float[Tensor, "T"], tokens: PackedTokens) -> Float[Tensor, "T"]:
    """Text tokens before image tokens."""
    return (tokens.modality == TEXT).to(top_gate.dtype)


PRIORITIES = {rule.__name__: rule for rule in (bpr, first_come, random, image_first, text_first)}


def follows_position(priority: Priority, *, gates_differ: bool = True) -> bool:
    """Whether the positions of the tokens alone decide the order: neither their gates nor chance change a score.

    Args:
        priority: called twice for the same tokens, with other gates.
        gates_differ: False where a router gives all tokens the same gate; then both calls have equal gates.
    """
    segments = [Segment(IMAGE, size=4, length=2), Segment(TEXT, size=4, length=2)]
    tokens = PackedTokens.of(segments, device=torch.device("cpu"))
    with torch.random.fork_rng(devices=[]):
        gates = torch.rand(2, 16) if gates_differ else torch.ones(2, 16)
        first = priority(gates[0], tokens)
        second = priority(gates[1], tokens)
    return torch.equal(first, second)


def get_priority(name: str) -> Priority:
    """A priority of this file by its name, or any function by its full dotted path.

    Raises:
        ConfigError: there is no such function.
    """
    if name in PRIORITIES:
        return PRIORITIES[name]
    module, _, function = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError, TypeError):
        found = None
    if not callable(found):
        raise ConfigError(f"priority must be one of {', '.join(PRIORITIES)}, or a dotted path, got {name!r}")
    return found
