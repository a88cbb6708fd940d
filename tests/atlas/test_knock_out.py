"""Knocking an expert out is zeroing its output, whatever the router; only inputs with tokens there run again."""

import copy
from functools import partial
from typing import Any

import pytest
import torch

from limoe.atlas.collect import SparseLayer, load, route, sparse_layers
from limoe.atlas.knock_out import KnockOut
from limoe.atlas.probe import Probe, silenced
from limoe.atlas.settings import Settings
from limoe.errors import ConfigError
from limoe.evaluation.encode import FeatureExtractor
from limoe.evaluation.metrics import bootstrap_interval
from limoe.evaluation.tasks import evaluate_zero_shot
from limoe.models.encoders import ImageEncoder, TextEncoder
from limoe.models.limoe import LIMoE
from limoe.models.two_tower import TwoTower
from limoe.routing.expert_choice import ExpertChoiceRouter
from limoe.routing.fixed import RandomRouter
from limoe.routing.priority import bpr
from limoe.routing.soft import SoftRouter
from limoe.routing.token_choice import TopKRouter
from limoe.types import IMAGE, TEXT
from tests.helpers import planted
from tests.helpers.builders import tiny_batch, tiny_model

ROUTERS = {
    "top_1": partial(TopKRouter, priority=bpr),
    "top_2": partial(TopKRouter, priority=bpr, k=2),
    "limited": partial(TopKRouter, priority=bpr, eval_capacity_factor=0.5, capacity_multiple_of=1),
    "expert_choice": partial(ExpertChoiceRouter, eval_capacity_factor=1.0),
    "soft": partial(SoftRouter, slots_per_expert=2),
    "random": partial(RandomRouter, priority=bpr),
}


def network(router: Any) -> LIMoE:
    sizes = {"width": 16, "depth": 3, "num_heads": 2, "mlp_dim": 32, "image_size": 8, "patch_size": 4}
    sparse = {"moe_layers": (0, 2), "num_experts": 4, "expert_init": "independent", "router": router}
    return LIMoE(**sizes, vocab_size=13, text_length=6, **sparse).eval()


def zeroed(model: Any, layer: int, expert: int) -> Any:
    """The oracle: another model in which nothing ever comes out of this expert."""
    other = copy.deepcopy(model)
    experts = other.tower.blocks[layer].mlp.experts
    with torch.no_grad():
        experts.weight_out[expert] = 0
        experts.bias_out[expert] = 0
    return other


def layers_of(model: Any) -> list[SparseLayer]:
    return sparse_layers(model, route(model, [tiny_batch(pairs=8)]))


@pytest.mark.parametrize("name", ROUTERS)
@torch.no_grad()
def test_without_an_expert_features_are_those_of_a_model_that_never_had_it(name: str) -> None:
    model, batch = network(ROUTERS[name]), tiny_batch(pairs=8)
    layers = layers_of(model)
    images = Probe(model.encode_image, [batch.images], modality=IMAGE, layers=layers, batch_size=8)
    texts = Probe(model.encode_text, batch[1:3], modality=TEXT, layers=layers, batch_size=8)
    before = copy.deepcopy(model.state_dict())
    moved = 0.0
    for layer in layers:
        for expert in range(4):
            oracle = zeroed(model, layer.number, expert)
            for probe, encode, inputs in (
                (images, oracle.encode_image, batch[:1]),
                (texts, oracle.encode_text, batch[1:3]),
            ):
                torch.manual_seed(0)  # as each encoding of a probe, for the router that draws
                found = probe.without(layer, expert)
                torch.testing.assert_close(found, encode(*inputs), atol=1e-6, rtol=1e-5)
                moved += (found - probe.features).abs().max().item()
    assert moved > 0.1
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@torch.no_grad()
def test_only_samples_with_a_token_there_are_encoded_again() -> None:
    """No patch goes to expert 3, `red` alone of all texts has a token at expert 0."""
    model, batch = planted.model(), planted_batch()
    seen: list[int] = []

    def encode(*inputs: torch.Tensor) -> torch.Tensor:
        seen.append(len(inputs[0]))
        return model.encode_text(*inputs) if len(inputs) == 2 else model.encode_image(*inputs)

    layers = sparse_layers(model, route(model, [batch]))
    images = Probe(encode, [batch.images], modality=IMAGE, layers=layers, batch_size=2)
    texts = Probe(encode, batch[1:3], modality=TEXT, layers=layers, batch_size=2)
    assert seen == [2, 1, 2, 1]
    seen.clear()
    assert images.without(layers[0], 3) is images.features and seen == []
    changed = (texts.without(layers[0], 0) != texts.features).any(1)
    assert seen == [1] and changed.tolist() == [False, True, False]
    assert [images.share(layers[0], e) for e in range(4)] == [3 / 12, 3 / 12, 6 / 12, 0]
    assert [texts.share(layers[0], e) for e in range(4)] == [1 / 8, 1 / 8, 3 / 8, 3 / 8]


def planted_batch() -> Any:
    return load(planted.data(), planted.Scenes(), batch_size=3)[0]


@torch.no_grad()
def test_a_layer_of_one_tower_leaves_the_other_modality_alone() -> None:
    router = partial(TopKRouter, priority=bpr)
    shape = {"width": 16, "depth": 2, "num_heads": 2, "mlp_dim": 32, "num_experts": 4, "router": router}
    image = partial(ImageEncoder, patch_size=4, moe_layers=(1,), **shape)
    text = partial(TextEncoder, moe_layers=(0,), **shape)
    model = TwoTower(image=image, text=text, image_size=8, vocab_size=13, text_length=6).eval()
    layers, batch = layers_of(model), tiny_batch(pairs=8)
    assert [layer.name for layer in layers] == ["layer 1 (image tower)", "layer 2 (text tower)"]
    assert [layer.moe for layer in layers] == [model.image.tower.blocks[1].mlp, model.text.tower.blocks[0].mlp]
    images = Probe(model.encode_image, [batch.images], modality=IMAGE, layers=layers, batch_size=8)
    assert images.share(layers[1], 0) is None and images.without(layers[1], 0) is images.features
    assert sum(images.share(layers[0], expert) or 0 for expert in range(4)) == pytest.approx(1)


def test_an_expert_speaks_again_after_an_error() -> None:
    experts = tiny_model().tower.blocks[1].mlp.experts
    before = experts.weight_out.clone()
    with pytest.raises(RuntimeError, match="inside"), silenced(experts, 2):
        assert experts.weight_out[2].abs().max() == 0 and torch.equal(experts.weight_out[1], before[1])
        raise RuntimeError("inside")
    assert torch.equal(experts.weight_out, before)


def measure(model: Any, *, images: int = 512, templates: int | None = None) -> KnockOut:
    layers = sparse_layers(model, route(model, [planted_batch()]))
    shown = {"pairs": 3, "seed": 0, "patches": 1, "words": 1, "min_occurrences": 1, "examples": 1, "batch_size": 2}
    slots = {"capacity_factor": "run", "slot_priority": "run"}
    settings = Settings(**shown, **slots, knock_out_images=images, knock_out_templates=templates)
    return KnockOut(model, planted.data(), planted.task(), layers=layers, settings=settings)


def test_accuracy_without_an_expert_is_that_of_the_evaluation() -> None:
    """The oracle is `limoe eval`'s own path with a zeroed model."""
    model = planted.model()
    found = measure(model)()
    assert (found["images"], found["classes"], found["templates"]) == (5, 3, 2)
    assert found["top1"] == pytest.approx(top1(model)) and found["chance"] == pytest.approx(1 / 3)
    rows = found["layers"][0]
    assert [row["top1"] for row in rows] == pytest.approx([top1(zeroed(model, 0, expert)) for expert in range(4)])
    for row in rows:
        assert row["difference"] == pytest.approx(row["top1"] - found["top1"])
        assert row["low"] <= row["difference"] <= row["high"]
    assert len({row["top1"] for row in rows}) > 1


def top1(model: Any) -> float:
    return evaluate_zero_shot(FeatureExtractor(model, planted.data()), planted.task()).compute()["zeroshot_top1"]


def test_the_interval_is_paired_over_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Right on three of five before and on two of them after: -1/5, from the changes 0, -1, 0, 0, 0."""
    knock_out = measure(planted.model())
    knock_out.hits = torch.tensor([1.0, 1, 0, 0, 1], dtype=torch.float64)
    after = torch.tensor([1.0, 0, 0, 0, 1], dtype=torch.float64)
    monkeypatch.setattr(knock_out, "_hits", lambda *_: after)
    row = knock_out()["layers"][0][0]
    assert row["difference"] == pytest.approx(-0.2) and row["top1"] == pytest.approx(0.4)
    assert (row["low"], row["high"]) == bootstrap_interval((after - knock_out.hits).numpy())


def test_fewer_images_and_templates() -> None:
    found = measure(planted.model(), images=3, templates=1)()
    assert (found["images"], found["templates"]) == (3, 1)
    for key in ("images", "templates"):
        with pytest.raises(ConfigError, match=f"knock_out_{key} must be >= 1"):
            measure(planted.model(), **{key: 0})
