"""Which tokens each expert computes, read from a model whose answer is known."""

import pytest
import torch
from PIL import Image

from limoe.atlas.collect import Tokens, as_pixels, choose, load, route, sparse_layers
from limoe.data.images.transforms import EvalTransform
from limoe.data.pairs import PairSubset
from limoe.types import IMAGE, TEXT
from tests.helpers import planted


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_tokens_are_found_again_sequence_by_sequence(batch_size: int) -> None:
    """However the pairs were batched: merged outputs interleave images and texts of the batches."""
    data, model = planted.data(), planted.model()
    batches = load(data, planted.Scenes(), batch_size=batch_size)
    assert [len(batch.images) for batch in batches] == {1: [1, 1, 1], 2: [2, 1], 3: [3]}[batch_size]
    routing = route(model, batches)
    image, text = (Tokens.of(routing[0], modality, sequences=3) for modality in (IMAGE, TEXT))
    assert image.expert_index[..., 0].tolist() == [[0, 0, 1, 2], [0, 1, 1, 2], [2, 2, 2, 2]]
    assert text.valid.tolist() == [[True, True, False, False], [True, True, True, False], [True, True, True, False]]
    real = [experts[mask].tolist() for experts, mask in zip(text.expert_index[..., 0], text.valid, strict=True)]
    assert real == [[3, 2], [0, 3, 2], [3, 1, 2]]  # cat, end; red, cat, end; cat, dog, end
    assert text.at(3).tolist() == [[True, False, False, False], [False, True, False, False], [True] + [False] * 3]
    # See planted.py: e^1.877 / (e^1.877 + 2 e^-1.460 + e^0.209) and e^2.646 / (e^2.646 + 3 e^-0.378).
    assert image.gate_of(0)[1].tolist() == pytest.approx([0.794, 0, 0, 0], abs=1e-3)
    assert text.gate_of(3)[0].tolist() == pytest.approx([0.873, 0, 0, 0], abs=1e-3)


def test_padding_is_computed_nowhere() -> None:
    routing = route(planted.model(), load(planted.data(), planted.Scenes(), batch_size=3))
    text = Tokens.of(routing[0], TEXT, sequences=3)
    assert sum(int(text.at(expert).sum()) for expert in range(4)) == 8


def test_the_mode_of_the_model_is_left_alone() -> None:
    model = planted.model().train()
    route(model, load(planted.data(), planted.Scenes(), batch_size=3))
    assert model.training


def test_pairs_are_drawn_by_seed() -> None:
    scenes = planted.Scenes(planted.SCENES * 4)
    first, again, other = (choose(scenes, count=6, seed=seed).indices for seed in (0, 0, 1))
    assert first == again != other and len(set(first)) == 6
    assert sorted(choose(scenes, count=100, seed=0).indices) == list(range(12))
    assert isinstance(choose(scenes, count=1, seed=0), PairSubset)


@pytest.mark.parametrize("normalization", ["unit", "imagenet"])
def test_model_input_becomes_the_image_again(normalization: str) -> None:
    transform = EvalTransform(image_size=8, normalization=normalization)
    image = planted.Scenes()[0].image
    pixels = as_pixels(transform(image)[None], transform)[0]
    assert Image.fromarray(pixels.numpy()).tobytes() == image.tobytes()


def test_layers_have_the_numbers_of_the_metrics() -> None:
    model = planted.model()
    routing = route(model, load(planted.data(), planted.Scenes(), batch_size=3))
    (layer,) = sparse_layers(model, routing)
    assert (layer.number, layer.name, layer.router.num_experts) == (0, "layer 0", 4)
    assert layer.moe is model.tower.blocks[0].mlp
    assert torch.equal(routing[0].modality.unique(), torch.tensor([IMAGE, TEXT]))
