"""Image encoders of timm: normalisation, locking, weights from a file, errors in one line."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from limoe.build import build_model, build_module
from limoe.errors import ArgumentError, ConfigError
from limoe.evaluation.encode import evaluating
from limoe.losses.contrastive import SoftmaxContrastive
from limoe.models.encoders import TextEncoder
from limoe.models.timm_encoder import TimmEncoder
from limoe.models.two_tower import TwoTower
from limoe.training.optim import parameter_groups
from tests.helpers.builders import TINY, tiny_batch
from tests.helpers.configs import composed
from tests.helpers.timm_models import VIT, encoder, random_images


def lit(**changes: Any) -> TwoTower:
    text = partial(TextEncoder, width=16, depth=1, num_heads=2, mlp_dim=32)
    image = partial(TimmEncoder, **{**VIT, "locked": True, **changes, "image_size": 32})
    image.keywords.pop("image_size")
    sizes = {name: TINY[name] for name in ("vocab_size", "text_length")}
    return TwoTower(image=image, text=text, image_size=32, image_head="none", **sizes)


def test_images_are_brought_to_the_models_own_mean_and_deviation() -> None:
    """White is 1 in our range and (1 - mean) / std in ImageNet's; black -1 and (0 - mean) / std."""
    model = encoder()
    mean, std = (torch.tensor(model.backbone.pretrained_cfg[key]) for key in ("mean", "std"))
    for value, brightness in ((1.0, 1.0), (-1.0, 0.0), (0.0, 0.5)):
        torch.testing.assert_close((value * model.scale + model.shift)[:, 0, 0], (brightness - mean) / std)
    images = random_images()
    normalised = ((images + 1) / 2 - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(model.eval()(images)[0], model.backbone(normalised))
    assert not any(name in ("scale", "shift") for name in model.state_dict())


def test_any_architecture_and_pooling() -> None:
    features, routing = encoder(name="test_resnet", settings=None)(random_images())
    assert features.shape == (4, encoder(name="test_resnet", settings=None).width) and routing == {}
    assert (
        encoder(pool="avg").eval()(random_images())[0].shape == encoder(pool="token").eval()(random_images())[0].shape
    )


def test_blocks_are_those_of_the_architecture_where_it_has_some() -> None:
    model = encoder()
    assert model.transformer_blocks() == list(model.backbone.blocks)
    assert encoder(name="test_resnet", settings=None).transformer_blocks() == []
    both: Any = lit()
    assert both.transformer_blocks() == [*both.image.backbone.blocks, *both.text.tower.blocks]


def test_unlocked_it_learns() -> None:
    model = encoder()
    model(random_images())[0].sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_locked_it_stays_in_evaluation_mode_and_keeps_no_gradient() -> None:
    model = lit(name="test_resnet", settings=None)  # batch norm would change in training mode
    before = {name: value.clone() for name, value in model.image.state_dict().items()}
    batch = tiny_batch()
    model.train()
    assert model.training and model.text.training and not model.image.backbone.training
    with evaluating(model):
        pass
    assert not model.image.backbone.training
    output = model(random_images(), batch.text_ids, batch.text_mask)
    assert not output.image_features.requires_grad
    SoftmaxContrastive()(output.image_features, output.text_features, output.logit_scale).backward()
    groups = parameter_groups(model, weight_decay=0.1)
    torch.optim.SGD(groups, lr=1.0).step()
    after = model.image.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(p.grad is None for p in model.image.parameters())
    trained = {id(p) for group in groups for p in group["params"]}
    assert trained == {id(p) for p in (*model.text.parameters(), *model.text_head.parameters(), model.logit_scale)}


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_weights_come_from_a_file_without_their_classifier(tmp_path: Path, suffix: str) -> None:
    source = timm.create_model("test_vit", num_classes=10, img_size=32)
    file = tmp_path / f"weights.{suffix}"
    save_file(source.state_dict(), file) if suffix == "safetensors" else torch.save(source.state_dict(), file)
    model = encoder(pretrained=True, weights=str(file), locked=True)
    assert not torch.equal(model.backbone.patch_embed.proj.weight, source.patch_embed.proj.weight)
    model.load_starting_weights()
    kept = {name: value for name, value in source.state_dict().items() if not name.startswith("head.")}
    assert model.backbone.state_dict().keys() == kept.keys()
    assert all(torch.equal(value, model.backbone.state_dict()[name]) for name, value in kept.items())
    assert not any(p.requires_grad for p in model.parameters()) and not model.backbone.training


def test_training_starts_from_the_weights_and_evaluation_never_asks_for_them(tmp_path: Path) -> None:
    source = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=32, patch_size=8, global_pool="avg")
    file = tmp_path / "weights.safetensors"
    save_file(source.state_dict(), file)
    image = ["model.image.pretrained=true", f"model.image.weights={file}", "model.image.locked=true"]
    cfg = composed("model=timm_tiny", "aux_loss=none", "tokenizer.vocab_size=300", *image)
    backbone = build_module(cfg).model.image.backbone
    assert torch.equal(backbone.patch_embed.proj.weight, source.patch_embed.proj.weight)
    file.unlink()
    build_model(cfg)
    with pytest.raises(ConfigError, match=r"model\.image\.weights must be a file"):
        build_module(cfg)


def test_without_pretrained_nothing_is_loaded() -> None:
    model = encoder()
    before = model.backbone.patch_embed.proj.weight.clone()
    model.load_starting_weights()
    assert torch.equal(model.backbone.patch_embed.proj.weight, before)


def test_errors_are_one_line_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArgumentError, match=r"name must be a model of timm .*, got 'vit_huge'"):
        encoder(name="vit_huge")
    with pytest.raises(ArgumentError, match=r"timm cannot build test_resnet with img_size=32: TypeError"):
        encoder(name="test_resnet")
    with pytest.raises(ArgumentError, match="pretrained must be true where weights is given"):
        encoder(weights="w.pth")
    with pytest.raises(ArgumentError, match=r"^weights must be a file, got 'w\.pth'"):
        encoder(pretrained=True, weights="w.pth").load_starting_weights()
    broken = tmp_path / "w.pth"
    broken.write_bytes(b"no weights")
    with pytest.raises(ArgumentError, match=r"weights: none for test_vit from .*w\.pth: \w+"):
        encoder(pretrained=True, weights=str(broken)).load_starting_weights()

    def unreachable(*_: Any, **__: Any) -> Any:
        raise OSError("We couldn't connect\nto the hub")

    model = encoder(pretrained=True)
    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(ArgumentError) as caught:
        model.load_starting_weights()
    assert str(caught.value) == (
        "weights: none for test_vit from the hub (or give a local file): OSError: We couldn't connect to the hub"
    )


def test_features_are_those_of_a_two_tower() -> None:
    model, batch = lit(), tiny_batch()
    images = random_images()
    output = model(images, batch.text_ids, batch.text_mask)
    torch.testing.assert_close(output.image_features, F.normalize(model.image_trunk(images), dim=-1))
    assert output.text_features.shape == output.image_features.shape
