"""Small inputs and models for tests."""

import dataclasses
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from limoe.models.limoe import LIMoE
from limoe.routing.dispatch import SlotDispatcher, assign_slots
from limoe.routing.priority import bpr
from limoe.routing.token_choice import TopKRouter
from limoe.types import IMAGE, TEXT, Batch, Dispatcher, ExpertTokens, PackedTokens, RouterOutput, Segment

TINY = {
    "width": 16,
    "depth": 2,
    "num_heads": 2,
    "mlp_dim": 32,
    "image_size": 8,
    "patch_size": 4,
    "vocab_size": 13,
    "text_length": 6,
}


def packed_pairs(*, pairs: int, image_tokens: int, text_tokens: int, text_mask: Tensor | None = None) -> PackedTokens:
    """All images, then all texts, as LIMoE packs them."""
    image = Segment(IMAGE, size=pairs, length=image_tokens)
    text = Segment(TEXT, size=pairs, length=text_tokens, mask=text_mask)
    return PackedTokens.of([image, text], device=torch.device("cpu"))


def packed_groups(*, groups: int, length: int) -> PackedTokens:
    """`groups` sequences of one modality; with `pairs_per_group=1` each is a routing group."""
    return PackedTokens.of([Segment(IMAGE, size=groups, length=length)], device=torch.device("cpu"))


def router_output(
    logits: Tensor,
    *,
    modality: Tensor | None = None,
    valid: Tensor | None = None,
    noisy_logits: Tensor | None = None,
    expert_index: Tensor | None = None,
    kept: Tensor | None = None,
    k: int = 1,
    noise_std: float = 0.0,
) -> RouterOutput:
    """What a token-choice router without a capacity says about these logits."""
    num_tokens = len(logits)
    modality = torch.zeros(num_tokens, dtype=torch.long) if modality is None else modality
    valid = torch.ones(num_tokens, dtype=torch.bool) if valid is None else valid
    noisy_logits = logits if noisy_logits is None else noisy_logits
    gates = noisy_logits.softmax(-1)
    if expert_index is None:
        expert_index = gates.sort(dim=-1, descending=True, stable=True).indices[:, :k]
    gate = gates.gather(-1, expert_index)
    return RouterOutput(
        logits=logits,
        noisy_logits=noisy_logits,
        gates=gates,
        expert_index=expert_index,
        gate=gate,
        kept=valid[:, None].expand_as(expert_index) if kept is None else kept,
        modality=modality,
        valid=valid,
        capacity=None,
        noise_std=noise_std,
    )


def routed_at_random(*, num_tokens: int = 57) -> dict[int, RouterOutput]:
    """Two layers of 4 and 3 experts, K = 2; the first 20 tokens are images, some tokens are padding or dropped."""
    routing = {}
    for layer, num_experts in ((1, 4), (3, 3)):
        generator = torch.Generator().manual_seed(layer)
        routing[layer] = router_output(
            torch.randn(num_tokens, num_experts, generator=generator),
            modality=(torch.arange(num_tokens) >= 20).long(),
            valid=torch.rand(num_tokens, generator=generator) < 0.8,
            kept=torch.rand(num_tokens, 2, generator=generator) < 0.7,
            k=2,
        )
    return routing


def tokens_of(routed: RouterOutput, part: slice) -> RouterOutput:
    """Some of the tokens, as another rank might see them."""
    names = ("logits", "noisy_logits", "gates", "expert_index", "gate", "kept", "modality", "valid")
    return dataclasses.replace(routed, **{name: getattr(routed, name)[part] for name in names})


def decide(router: nn.Module, x: Tensor, packed: PackedTokens) -> RouterOutput:
    """What a router decides, without its dispatcher."""
    _, routing = router(x, packed)
    return routing


def slot_dispatcher(
    expert_index: Tensor, *, gate: Tensor, capacity: int | None, **how: Any
) -> tuple[SlotDispatcher, Tensor]:
    """The dispatcher of these choices, and which of them are kept; `how`: see `assign_slots`."""
    assignment = assign_slots(expert_index, capacity=capacity, **how)
    return SlotDispatcher(assignment, gate=gate, capacity=capacity), assignment.kept


def layouts(dispatcher: Dispatcher, x: Tensor) -> dict[str, ExpertTokens]:
    """What `dispatch` gives in each layout that it offers."""
    return {layout: dispatcher.dispatch(x, layout) for layout in dispatcher.num_rows}


def top_k_router(dim: int, *, num_experts: int, **settings: Any) -> TopKRouter:
    return TopKRouter(dim, num_experts=num_experts, **{"priority": bpr, **settings})


def tiny_model(
    *,
    moe_layers: tuple[int, ...] = (1,),
    kind: type[TopKRouter] = TopKRouter,
    router: dict[str, Any] | None = None,
    **changes: Any,
) -> LIMoE:
    """Two blocks, the second sparse with 4 experts; 4 image tokens, up to 6 text tokens."""
    settings = {**TINY, "moe_layers": moe_layers, "num_experts": 4, "expert_init": "independent", **changes}
    return LIMoE(**settings, router=partial(kind, **{"priority": bpr, **(router or {})}))


def tiny_batch(*, pairs: int = 4, seed: int = 0) -> Batch:
    """Random images and texts; text i has 2 + i % 5 real tokens, then padding (id 0)."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([2 + i % 5 for i in range(pairs)])
    mask = torch.arange(TINY["text_length"]) < lengths[:, None]
    ids = torch.randint(1, TINY["vocab_size"], mask.shape, generator=generator) * mask
    images = torch.rand(pairs, 3, TINY["image_size"], TINY["image_size"], generator=generator) * 2 - 1
    return Batch(images=images, text_ids=ids, text_mask=mask, sample=torch.arange(pairs))


class Batches:
    """A loader of ready batches. (Lightning takes a list for several loaders.)"""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)


def quiet_trainer(folder: Path, **settings: Any) -> L.Trainer:
    """One CPU process, no logger, no checkpoints, no bar."""
    quiet = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return L.Trainer(default_root_dir=folder, **{**quiet, **settings})
