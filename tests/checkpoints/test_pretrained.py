"""What was exported comes back bit by bit, without the training stack, and nothing else is let in."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import limoe
from limoe.checkpoints.export import export
from limoe.checkpoints.pretrained import CONFIG, TOKENIZER, WEIGHTS, ImageTextEncoder, load, self_contained
from limoe.config.objects import instantiate
from limoe.errors import DataError
from limoe.files import sha256
from tests.helpers.fake_checkpoint import DENSE, write_checkpoint

TEXTS = ["a red circle", "", "a blue square above a red circle and much more"]
# Two towers, the text side sparse; the image side of timm, which must not fetch anything when it is loaded.
TWO_TOWER = {
    "_target_": "limoe.models.two_tower.TwoTower",
    "image_size": 16,
    "vocab_size": 300,
    "text_length": 8,
    "image": {
        "_target_": "limoe.models.timm_encoder.TimmEncoder",
        "_partial_": True,
        "name": "vit_tiny_patch16_224",
        "settings": {"img_size": 16, "depth": 1, "embed_dim": 16, "num_heads": 2},
    },
    "text": {
        "_target_": "limoe.models.encoders.TextEncoder",
        "_partial_": True,
        "width": 16,
        "depth": 2,
        "num_heads": 2,
        "mlp_dim": 32,
        "moe_layers": [1],
        "num_experts": 4,
        "router": {
            "_target_": "limoe.routing.token_choice.TopKRouter",
            "_partial_": True,
            "priority": {"_target_": "limoe.routing.priority.bpr", "_partial_": True},
        },
    },
}


def random_images(*, count: int = 3) -> list[Image.Image]:
    return [Image.effect_noise((20 + 3 * i, 31), 60.0).convert("RGB") for i in range(count)]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    write_checkpoint(folder / "run")
    export(folder / "run", out=folder / "out")
    return folder / "out"


@pytest.fixture
def exported(original: Path, tmp_path: Path) -> Path:
    """One to damage."""
    return shutil.copytree(original, tmp_path / "out")


@pytest.mark.parametrize("overrides", [(), DENSE, ("routing=expert_choice", "~aux_loss.load")], ids=str)
def test_outputs_are_those_of_the_checkpoint(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    model = write_checkpoint(tmp_path / "run", *overrides)
    export(tmp_path / "run", out=tmp_path / "out")
    assert_equal(load(tmp_path / "out"), model)


def test_two_towers_come_back_too(tmp_path: Path) -> None:
    model: Any = instantiate(TWO_TOWER).eval()
    run = {"model": TWO_TOWER, "tokenizer": {}, "optimizer": {"_target_": "limoe.training.optim.adamw", "lr": 1e-3}}
    run |= {"data": {"module": {"eval_transform": transform(16), "batch_size": 4}}, "trainer": {"max_steps": 7}}
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    write_checkpoint(tmp_path / "run", state_dict=state, hyper_parameters=run)
    export(tmp_path / "run", out=tmp_path / "out")
    assert_equal(load(tmp_path / "out"), model)


def transform(size: int) -> dict[str, Any]:
    return {"_target_": "limoe.data.images.transforms.EvalTransform", "image_size": size}


def assert_equal(encoder: ImageTextEncoder, model: Any) -> None:
    """Bitwise, by images and texts as by tensors."""
    seen = random_images()
    images = torch.stack([encoder.preprocess(image) for image in seen])
    ids, mask = encoder.tokenizer.encode(TEXTS)
    with torch.no_grad():
        image_features, text_features = model.encode_image(images), model.encode_text(ids, mask)
    assert torch.equal(encoder.encode_image(seen), image_features)
    assert torch.equal(encoder.encode_image(images), image_features)
    assert torch.equal(encoder.encode_text(TEXTS), text_features)
    assert torch.equal(encoder.encode_text(ids, mask), text_features)
    assert torch.equal(encoder.logit_scale, model.logit_scale.exp())
    assert not encoder.training and not image_features.isnan().any()
    assert not encoder.encode_text(TEXTS).requires_grad


def test_one_text_and_one_image_need_no_list(exported: Path) -> None:
    encoder, image = load(exported), random_images(count=1)[0]
    assert torch.equal(encoder.encode_text("a red circle"), encoder.encode_text(["a red circle"]))
    assert torch.equal(encoder.encode_image(image), encoder.encode_image([image]))
    ids, mask = encoder.tokenizer.encode([TEXTS[2]])
    assert mask.all() and torch.equal(encoder.encode_text(ids), encoder.encode_text(ids, mask))


def test_preprocessing_is_that_of_evaluation_for_any_mode(exported: Path) -> None:
    encoder = load(exported)
    clear = Image.new("RGBA", (5, 5), (0, 0, 0, 0))
    assert torch.equal(encoder.preprocess(clear), torch.ones(3, 32, 32))  # white is 1
    assert clear.mode == "RGBA"
    grey = Image.new("L", (7, 3), 0)
    assert torch.equal(encoder.preprocess(grey), -torch.ones(3, 32, 32))


def test_loading_draws_no_random_numbers(exported: Path) -> None:
    before = torch.get_rng_state()
    load(exported)
    assert torch.equal(torch.get_rng_state(), before)


def test_zero_shot_in_three_lines(exported: Path) -> None:
    """The example of docs/export.md."""
    model = limoe.load(exported)
    images, texts = model.encode_image(random_images()), model.encode_text(["a red circle", "a blue square"])
    probabilities = (model.logit_scale * images @ texts.T).softmax(-1)

    assert probabilities.shape == (3, 2)
    assert torch.allclose(probabilities.sum(-1), torch.ones(3))


def test_neither_lightning_nor_hydra_is_imported(exported: Path) -> None:
    code = """
        import sys
        for name in ("lightning", "pytorch_lightning", "hydra", "omegaconf", "torchmetrics", "rich", "tensorboard",
                     "matplotlib", "jinja2", "pandas"):
            sys.modules[name] = None  # an import of it now fails
        import limoe
        light = "limoe.checkpoints.pretrained" not in sys.modules and "timm" not in sys.modules
        from PIL import Image
        model = limoe.load(sys.argv[1])
        print(light, *model.encode_text(["a"]).shape, *model.encode_image([Image.new("RGB", (9, 9))]).shape)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(exported)]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=env)
    assert done.stdout.split() == ["True", "1", "16", "1", "16"], done.stderr


def test_limoe_has_no_other_attributes() -> None:
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        limoe.lode  # noqa: B018


def flip_bit(path: Path, *, byte: int) -> None:
    data = bytearray(path.read_bytes())
    data[byte] ^= 1
    path.write_bytes(data)


def change(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / CONFIG).read_text())
    config |= changes
    (folder / CONFIG).write_text(json.dumps({key: value for key, value in config.items() if value is not Ellipsis}))


def set_model(folder: Path, **changes: Any) -> None:
    change(folder, model=json.loads((folder / CONFIG).read_text())["model"] | changes)


def rewrite_weights(folder: Path, names: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    """Other weights under a right hash."""
    save_file(names(dict(load(folder).model.state_dict())), folder / WEIGHTS)
    change(folder, sha256={name: sha256(folder / name) for name in (WEIGHTS, TOKENIZER)})


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "flipped bit": (lambda f: flip_bit(f / WEIGHTS, byte=-5), "model.safetensors: sha256 mismatch"),
    "truncated": (lambda f: os.truncate(f / WEIGHTS, 500), "model.safetensors: sha256 mismatch"),
    "flipped tokenizer": (lambda f: flip_bit(f / TOKENIZER, byte=40), "tokenizer.json: sha256 mismatch"),
    "no tokenizer": (lambda f: (f / TOKENIZER).unlink(), "tokenizer.json is missing"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "model.safetensors is missing"),
    "no config": (lambda f: (f / CONFIG).unlink(), "no exported model"),
    "torn config": (lambda f: (f / CONFIG).write_text('{"format'), "is not JSON"),
    "deep config": (lambda f: (f / CONFIG).write_text("[" * 100_000), "is not JSON"),
    "foreign config": (lambda f: (f / CONFIG).write_text('{"model_type": "clip"}'), "exported by limoe"),
    "newer": (lambda f: change(f, format_version=2, limoe_version="9.0"), r"format 2 \(limoe 9.0\).*update limoe"),
    "key missing": (lambda f: change(f, preprocess=...), "lacks the keys preprocess"),
    "key unknown": (lambda f: change(f, hook="x"), "unknown keys: hook"),
    "no hash": (lambda f: change(f, sha256={}), "sha256 must name"),
    "not allowed": (lambda f: set_model(f, _target_="torch.hub.load"), "'torch.hub.load' is not allowed"),
    "no network": (lambda f: change(f, model=transform(8)), "is no network"),
    "unknown argument": (lambda f: set_model(f, colour=1), "unexpected keyword argument 'colour'"),
    "other depth": (lambda f: set_model(f, depth=3), "missing: tower.blocks.2.*and 9 more"),
    "other width": (
        lambda f: set_model(f, out_dim=3),
        r"of another shape: image_head.weight \[16, 16\]",
    ),
    "a name more": (lambda f: rewrite_weights(f, lambda s: {**s, "extra": torch.ones(1)}), "unknown: extra"),
    "no safetensors": (
        lambda f: (os.truncate(f / WEIGHTS, 500), change(f, sha256={n: sha256(f / n) for n in (WEIGHTS, TOKENIZER)})),
        "cannot be read as safetensors",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_export_is_refused_in_one_line(exported: Path, fault: str) -> None:
    damage, message = BROKEN[fault]
    damage(exported)
    with pytest.raises(DataError, match=message) as caught:
        load(exported)
    assert str(exported) in str(caught.value) and "\n" not in str(caught.value)


def test_a_model_fetches_no_other_weights_first() -> None:
    tree = {"image": {"name": "vit", "pretrained": True, "weights": "/home/me/w.bin"}, "layers": [{"weights": "x"}]}
    assert self_contained(tree) == {
        "image": {"name": "vit", "pretrained": False, "weights": None},
        "layers": [{"weights": None}],
    }
