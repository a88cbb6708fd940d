"""The types that all parts of limoe share.

Legend of shapes, used in every public signature:
B pairs in the batch, T tokens routed together (both modalities), D width, E experts, K experts per token,
C capacity (slots per expert and group), G routing groups, H hidden width of an MLP, S slots of one expert (G * C),
N rows in expert order, n_i / n_t tokens of one image / text, M modalities, P slots per expert of Soft MoE, W ranks.
Shapes are jaxtyping annotations: checked in the tests, inert in production.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int, Shaped
from PIL.Image import Image
from torch import Tensor

IMAGE, TEXT = 0, 1
MODALITIES = ("image", "text")  # position = modality id


class Pair(NamedTuple):
    """One sample of a dataset: a decoded RGB image, the captions that fit it, its labels by field, its key."""

    image: Image
    captions: list[str]
    labels: dict[str, str]
    key: str


@runtime_checkable
class PairDataset(Protocol):
    """The contract of a data source. `captions` must not touch the images (a tokenizer is trained on it)."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Pair: ...
    def captions(self) -> Iterator[str]: ...


class Batch(NamedTuple):
    """One training batch. `text_mask` is True on real tokens; `sample` is each pair's position in its dataset.

    `bad` is (place, key, kind, reason) of each sample that another one replaces; the data module takes it out.
    """

    images: Float[Tensor, "B 3 h w"]
    text_ids: Int[Tensor, "B n_t"]
    text_mask: Bool[Tensor, "B n_t"]
    sample: Int[Tensor, "B"]
    bad: tuple[tuple[str, str, str, str], ...] = ()


@dataclass(frozen=True)
class Segment:
    """The part of the packed tokens that one modality fills: `size` sequences of `length` tokens each."""

    modality: int
    size: int
    length: int
    mask: Bool[Tensor, "size length"] | None = None  # True on real tokens; None = all are

    @property
    def num_tokens(self) -> int:
        return self.size * self.length


@dataclass(frozen=True)
class PackedTokens:
    """The layout of the T tokens of both modalities: all that is known about them beside their values."""

    segments: tuple[Segment, ...]
    modality: Int[Tensor, "T"]
    valid: Bool[Tensor, "T"]  # False on padding
    pair: Int[Tensor, "T"]  # which of the B pairs a token belongs to

    @classmethod
    def of(cls, segments: Sequence[Segment], device: torch.device) -> "PackedTokens":
        """Lay the segments out one after the other, each sequence by sequence."""
        modality = []
        valid = []
        pair = []
        for segment in segments:
            modality.append(torch.full((segment.num_tokens,), segment.modality, device=device))
            if segment.mask is None:
                valid.append(torch.ones(segment.num_tokens, dtype=torch.bool, device=device))
            else:
                valid.append(segment.mask.reshape(-1))
            number = torch.arange(segment.size, device=device)
            pair.append(number.repeat_interleave(segment.length, output_size=segment.num_tokens))
        return cls(tuple(segments), torch.cat(modality), torch.cat(valid), torch.cat(pair))

    @property
    def modalities(self) -> tuple[int, ...]:
        """The ids of the modalities present."""
        return tuple(segment.modality for segment in self.segments)

    @property
    def num_pairs(self) -> int:
        return max(segment.size for segment in self.segments)

    @property
    def tokens_per_pair(self) -> int:
        """Tokens of one pair, padding included (a constant of the model, never of the data)."""
        return sum(segment.length for segment in self.segments)

    def split(self, x: Shaped[Tensor, "T ..."]) -> list[Shaped[Tensor, "size length ..."]]:
        """One view per segment, sequences apart."""
        parts = x.split([segment.num_tokens for segment in self.segments])
        views = []
        for part, segment in zip(parts, self.segments, strict=True):
            views.append(part.view(segment.size, segment.length, *x.shape[1:]))
        return views


BUFFERS, SORTED = "buffers", "sorted"  # layouts of the tokens at their experts, see `ExpertTokens`


class ExpertTokens(NamedTuple):
    """Tokens at their experts, before or after the experts compute them, in one of two layouts.

    BUFFERS: `tokens` is [E, S, D], S slots per expert (G groups of C), and `offsets` is None.
    SORTED: `tokens` is [N, D] in the order of their experts; those of expert e end before `offsets[e]` (int32, as
    torch's grouped products take it). Rows from `offsets[-1]` on belong to no expert and may hold anything.
    """

    tokens: Float[Tensor, "..."]
    offsets: Int[Tensor, "E"] | None = None


class Dispatcher(ABC):
    """Moves tokens to their experts and back, and nothing else. It is made for one batch, by a router.

    Neither method depends on the other having been called, so a dispatcher can be wrapped: one that exchanges tokens
    between processes calls the methods of the inner one before and after its exchange.

    Attributes:
        num_rows: by layout that `dispatch` offers, how many rows the experts compute in it. Where tokens of several
            processes meet these numbers are pure functions of shapes.
    """

    num_rows: Mapping[str, int]

    @abstractmethod
    def dispatch(self, x: Float[Tensor, "T D"], layout: str) -> ExpertTokens:
        """The rows of `x` at their experts, in a layout that `num_rows` names."""

    @abstractmethod
    def combine(self, expert_tokens: ExpertTokens) -> Float[Tensor, "T D"]:
        """The gated sum of the outputs of each token's experts, 0 for dropped tokens; from any layout of `num_rows`."""


@dataclass(frozen=True)
class RouterOutput:
    """The decisions of one router about T tokens: data that losses, statistics, plots and callbacks read.

    `logits` are clean and at least float32; `noisy_logits` select and weigh (equal to `logits` without noise);
    `gates` is their softmax. `expert_index[t, k]` is the k-th choice of a token, `gate[t, k]` its weight, `kept[t, k]`
    whether it got a slot. `capacity` is the number of slots per expert and group (None: no limit). `noise_std` is in
    logits.
    """

    logits: Float[Tensor, "T E"]
    noisy_logits: Float[Tensor, "T E"]
    gates: Float[Tensor, "T E"]
    expert_index: Int[Tensor, "T K"]
    gate: Float[Tensor, "T K"]
    kept: Bool[Tensor, "T K"]
    modality: Int[Tensor, "T"]
    valid: Bool[Tensor, "T"]
    capacity: int | None
    noise_std: float
    modalities: tuple[int, ...] = (IMAGE, TEXT)  # which ones the routed tokens have, a constant of the model

    @property
    def num_experts(self) -> int:
        return self.logits.shape[-1]

    @cached_property
    def log_probs(self) -> Float[Tensor, "T E"]:
        """Clean log-softmax over the experts, computed once for all losses that read it.

        The first access may be under `no_grad` (statistics); the cached value must still carry the graph.
        """
        with torch.enable_grad():
            return self.logits.log_softmax(-1)

    def token_mask(self, modality: int | None) -> Float[Tensor, "T"]:
        """1 for each real token of the modality (None: of any), else 0."""
        mask = self.valid if modality is None else self.valid & (self.modality == modality)
        return mask.to(self.logits.dtype)


class ModelOutput:
    """Unit-length features [B, d_out], the factor exp(logit_scale) on cosines, and each sparse layer's RouterOutput.

    A plain class on purpose: Lightning rebuilds dataclasses and tuples on their way to callbacks, which would break
    the frozen RouterOutput.
    """

    def __init__(
        self,
        image_features: Float[Tensor, "B d_out"],
        text_features: Float[Tensor, "B d_out"],
        logit_scale: Float[Tensor, ""],
        routing: dict[int, RouterOutput],
    ) -> None:
        self.image_features = image_features
        self.text_features = text_features
        self.logit_scale = logit_scale
        self.routing = routing  # layer number -> what its router decided
