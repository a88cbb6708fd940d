"""Expert knock-out: zero-shot accuracy when one expert outputs zero for its tokens."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float64, Int64
from torch import Tensor
from tqdm import tqdm

from limoe.atlas.collect import SparseLayer, choose
from limoe.atlas.probe import Probe
from limoe.atlas.settings import Settings
from limoe.data.datamodule import PairDataModule
from limoe.data.tasks.kinds import ZeroShotTask
from limoe.evaluation.encode import evaluating
from limoe.evaluation.metrics import bootstrap_interval, ranks_of
from limoe.evaluation.zero_shot import chance_top_k, class_embeddings, classify, prompts_of
from limoe.types import IMAGE, TEXT


class KnockOut:
    """A zero-shot task on some of its images, measured with and without single experts.

    Args:
        model: a dual encoder with the sparse layers `layers`.
        data: gives the image loader and the tokenizer.
        task: its first `knock_out_templates` prompt templates are used.
        settings: `knock_out_images` are drawn by `seed`; texts and images are encoded in batches of `batch_size`.
    """

    def __init__(
        self, model: Any, data: PairDataModule, task: ZeroShotTask, *, layers: Sequence[SparseLayer], settings: Settings
    ) -> None:
        assert data.tokenizer is not None
        picked = choose(task.images, count=settings.knock_out_images, seed=settings.seed)
        self.model = model
        self.layers = layers
        self.labels: Int64[Tensor, "n"] = torch.tensor([task.labels[i] for i in picked.indices])
        self.names = task.class_names
        self.templates = task.templates[: settings.knock_out_templates]
        parameter = next(model.parameters())
        images = torch.cat(list(data.image_loader(picked)))
        ids, mask = data.tokenizer.encode(prompts_of(self.names, self.templates))

        def encode_images(images: Tensor) -> Tensor:
            return model.encode_image(images.to(parameter.device, parameter.dtype))

        def encode_texts(ids: Tensor, mask: Tensor) -> Tensor:
            return model.encode_text(ids.to(parameter.device), mask.to(parameter.device))

        probe = partial(Probe, layers=layers, batch_size=settings.batch_size)
        with evaluating(model):
            self.images = probe(encode_images, [images], modality=IMAGE)
            self.prompts = probe(encode_texts, [ids, mask], modality=TEXT)
        self.hits = self._hits(self.images.features, self.prompts.features)

    def __call__(self) -> dict[str, Any]:
        """Top-1 accuracy of the intact model, and without each single expert of each layer.

        `difference` is knocked out minus intact; `low` and `high` are its 95 % interval, a paired bootstrap over images
        with model and prompts fixed. `image` and `text` are the shares of their tokens that the expert computes.
        """
        found: dict[int, list[dict[str, Any]]] = {layer.number: [] for layer in self.layers}
        experts = [(layer, expert) for layer in self.layers for expert in range(layer.router.num_experts)]
        with evaluating(self.model):
            for layer, expert in tqdm(experts, desc="knock-out", unit="expert", leave=False, disable=None):
                found[layer.number].append(self._without(layer, expert))
        return {
            "images": len(self.labels),
            "classes": len(self.names),
            "templates": len(self.templates),
            "top1": self.hits.mean().item(),
            "chance": chance_top_k(len(self.names), k=1),
            "layers": found,
        }

    def _without(self, layer: SparseLayer, expert: int) -> dict[str, Any]:
        hits = self._hits(self.images.without(layer, expert), self.prompts.without(layer, expert))
        change = hits - self.hits
        low, high = bootstrap_interval(change.numpy())
        return {
            "expert": expert,
            "image": self.images.share(layer, expert),
            "text": self.prompts.share(layer, expert),
            "top1": hits.mean().item(),
            "difference": change.mean().item(),
            "low": low,
            "high": high,
        }

    def _hits(self, images: Tensor, prompts: Tensor) -> Float64[Tensor, "n"]:
        classes = class_embeddings(lambda _: prompts, class_names=self.names, templates=self.templates)
        return (ranks_of(classify(images, classes), self.labels) == 0).double()
