"""Whole training steps to compare: ours from the config, and the same sizes in open_clip."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from benchmarks.contenders import Unavailable
from limoe.config.model_settings import dense_baseline, two_tower_baseline
from limoe.config.objects import instantiate
from limoe.losses.auxiliary.base import AuxLossSet
from limoe.training.micro_batches import encode
from limoe.training.optim import adamw
from limoe.types import Batch

Settings = dict[str, Any]


class TrainStep:
    """Forward under autocast, loss, backward, clipping to norm 1, fused AdamW: one call, one step on the same batch.

    `kept` is the share of (token, choice) pairs that got a slot in the first step; None without routers.
    """

    kept: float | None = None

    def __init__(self, model: nn.Module, loss: Callable[[], Tensor], *, autocast: torch.autocast) -> None:
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.loss, self.autocast = loss, autocast
        self.optimizer = adamw(model, lr=1e-4)

    def __call__(self) -> None:
        with self.autocast:
            loss = self.loss()
        loss.backward()
        clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def ours(settings: Settings, batch: Batch, *, model: Settings, autocast: torch.autocast) -> TrainStep:
    """`model` with the losses of the config; those on routers only where it has some."""
    built = instantiate(model).to(batch.images.device)
    contrastive = instantiate(settings["contrastive"])
    aux = AuxLossSet(instantiate(settings["aux_loss"]), **settings["aux_total"])

    def loss() -> Tensor:
        output = encode(built, batch, micro_batch_size=settings["micro_batch_size"])
        task = contrastive(output.image_features, output.text_features, output.logit_scale)
        if not output.routing:
            return task
        if step.kept is None:  # once, in the step that warms up
            kept = torch.cat([routed.kept[routed.valid].flatten() for routed in output.routing.values()])
            step.kept = kept.float().mean().item()
        return task + aux(output.routing).total

    step = TrainStep(built, loss, autocast=autocast)
    return step


def open_clip(settings: Settings, batch: Batch, *, autocast: torch.autocast) -> TrainStep:
    """Two towers of the one tower's size; its images have a class token more, its texts are causal."""
    try:
        from open_clip.loss import ClipLoss
        from open_clip.model import CLIP
    except (ImportError, RuntimeError) as error:
        raise Unavailable(f"{type(error).__name__}: {str(error).splitlines()[0]}") from error

    model, width = settings["model"], settings["model"]["width"]
    vision = {"layers": model["depth"], "width": width, "head_width": width // model["num_heads"]}
    vision |= {"mlp_ratio": model["mlp_dim"] / width}
    vision |= {name: model[name] for name in ("patch_size", "image_size")}
    text = {"context_length": model["text_length"], "vocab_size": model["vocab_size"], "width": width}
    text |= {"heads": model["num_heads"], "layers": model["depth"], "mlp_ratio": model["mlp_dim"] / width}
    try:
        built = CLIP(embed_dim=width, vision_cfg=vision, text_cfg=text).to(batch.images.device)
    except TypeError as error:
        raise Unavailable(f"this version has other settings: {error}") from error
    contrastive = ClipLoss()
    return TrainStep(built, lambda: contrastive(*built(batch.images, batch.text_ids)[:3]), autocast=autocast)


def contenders(settings: Settings, batch: Batch, *, autocast: torch.autocast) -> dict[str, TrainStep | str]:
    """By name, the dense baseline first; a reason in place of what cannot be measured."""
    model = settings["model"]
    found: dict[str, TrainStep | str] = {
        "dense": ours(settings, batch, model=dense_baseline(model), autocast=autocast),
        "sparse": ours(settings, batch, model=model, autocast=autocast),
        "two towers": ours(settings, batch, model=two_tower_baseline(model), autocast=autocast),
    }
    try:
        found["open_clip"] = open_clip(settings, batch, autocast=autocast)
    except Unavailable as reason:
        found["open_clip"] = str(reason)
    return found
