"""Features from files: the same numbers, computed once, forgotten with the weights."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from limoe.errors import ArgumentError
from limoe.models import feature_cache
from limoe.models.feature_cache import FeatureCache, weights_hash
from tests.helpers.timm_models import encoder, random_images


class Network(torch.nn.Linear):
    """Sum of the pixels per channel times a matrix; counts the images it has seen."""

    def __init__(self) -> None:
        super().__init__(3, 2)
        self.seen = 0

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return super().forward(images.mean((2, 3)))


def run(cache: FeatureCache, network: Network, images: Tensor) -> Tensor:
    with torch.no_grad():
        return cache(images, network)


def test_every_image_is_computed_once(tmp_path: Path) -> None:
    network, images = Network(), random_images(pairs=6)
    cache = FeatureCache(tmp_path, network)
    first = run(cache, network, images[:4])
    assert network.seen == 4 and len(cache) == 4
    mixed = run(cache, network, images[[5, 1, 4, 0]])  # two known ones, in any order
    assert network.seen == 6
    assert torch.equal(mixed[[1, 3]], first[[1, 0]])
    torch.testing.assert_close(mixed, network(images[[5, 1, 4, 0]]).detach())


def test_rows_are_on_disk_when_a_file_is_full_and_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_cache, "_ROWS_PER_FILE", 4)
    network, images = Network(), random_images(pairs=6)
    cache = FeatureCache(tmp_path, network)
    expected = run(cache, network, images)  # one file of 6
    run(cache, network, extra := random_images(pairs=2))
    assert len(list(cache.folder.glob("*.keys.npy"))) == 1
    assert len(FeatureCache(tmp_path, network)) == 6
    del cache
    again = FeatureCache(tmp_path, network)
    network.seen = 0
    assert torch.equal(run(again, network, images), expected) and len(again) == 8
    run(again, network, extra)
    assert network.seen == 0 and not list(tmp_path.rglob(".*"))


def test_other_weights_have_another_folder(tmp_path: Path) -> None:
    network = Network()
    first = FeatureCache(tmp_path, network).folder
    assert first.name == weights_hash(network) and len(first.name) == 16
    network.bias.data += 1
    assert FeatureCache(tmp_path, network).folder != first


def test_precision_is_part_of_the_key(tmp_path: Path) -> None:
    network, images = Network(), random_images(pairs=2)
    cache = FeatureCache(tmp_path, network)
    run(cache, network, images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = run(cache, network, images)
    assert network.seen == 4 and low.dtype == torch.float32
    assert torch.equal(low, low.bfloat16().float())


def test_in_a_locked_encoder(tmp_path: Path) -> None:
    plain, images = encoder(locked=True), random_images()
    cached = encoder(locked=True, cache_dir=str(tmp_path))
    cached.load_state_dict(plain.state_dict())
    calls: list[int] = []
    cached.backbone.register_forward_hook(lambda *_: calls.append(1))
    for _ in range(2):
        features, _ = cached.train()(images)
        torch.testing.assert_close(features, plain(images)[0])
    assert len(calls) == 1 and not features.requires_grad
    other = encoder(locked=True)
    cached.load_state_dict(other.state_dict())
    torch.testing.assert_close(cached(images)[0], other(images)[0])


def test_only_a_locked_one_can_have_a_cache(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="cache_dir must be null unless locked"):
        encoder(cache_dir=str(tmp_path))
