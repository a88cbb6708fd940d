"""The numbers of `tests/golden` (its README says what computed them), and how ours are compared with them."""

import dataclasses
import json
import lzma
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load
from torch import Tensor

from limoe.losses.auxiliary.base import AuxLoss
from limoe.types import RouterOutput
from tests.helpers.paths import REPO

GOLDEN = REPO / "tests" / "golden"
PRECISIONS = {"f32": torch.float32, "f64": torch.float64}


@cache
def arrays(name: str) -> dict[str, np.ndarray]:
    """All arrays of one file, by `case/field`; writable ones, as `torch.from_numpy` asks."""
    read_only = load(lzma.decompress((GOLDEN / f"{name}.safetensors.xz").read_bytes()))
    return {key: value.copy() for key, value in read_only.items()}


@cache
def cases(name: str) -> dict[str, dict[str, Any]]:
    """The settings of every case of one file."""
    return json.loads((GOLDEN / f"{name}.json").read_text())["cases"]


def table(name: str) -> dict[str, Any]:
    """A file that is JSON alone."""
    return json.loads((GOLDEN / f"{name}.json").read_text())


def close(actual: Tensor, expected: np.ndarray, tolerance: float) -> None:
    """Equal up to `tolerance` relative to max(1, largest reference value)."""
    assert tuple(actual.shape) == expected.shape
    error = np.abs(actual.detach().double().numpy() - expected.astype(np.float64)).max(initial=0.0)
    assert error <= tolerance * max(1.0, np.abs(expected).max(initial=0.0))


def per_group(routed: RouterOutput, groups: int) -> list[RouterOutput]:
    """The same decisions, one RouterOutput per routing group."""
    names = ("logits", "noisy_logits", "gates", "expert_index", "gate", "kept", "modality", "valid")
    parts = zip(*(getattr(routed, name).chunk(groups) for name in names), strict=True)
    return [dataclasses.replace(routed, **dict(zip(names, part, strict=True))) for part in parts]


def group_losses(term: AuxLoss, routed: RouterOutput, groups: int) -> Tensor:
    """One loss per routing group: the reference takes its mean, ours take all tokens they are given."""
    return torch.stack([term(one) for one in per_group(routed, groups)])


def fix_noise(monkeypatch: pytest.MonkeyPatch, draw: np.ndarray) -> None:
    """Routers add this draw of the reference in place of one of their own."""
    flat = torch.from_numpy(draw).flatten(0, -2)
    monkeypatch.setattr(torch, "randn_like", lambda like: flat.to(like.dtype).view_as(like))
