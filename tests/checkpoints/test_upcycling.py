"""A sparse model that starts from a dense one, of ours or of timm, and is the same function then."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from limoe.build import build_model, initialise
from limoe.checkpoints.export import export
from limoe.checkpoints.upcycling import CheckpointWeights, TimmViTWeights, upcycled
from limoe.errors import DataError
from limoe.models.encoders import ImageEncoder
from limoe.models.limoe import LIMoE
from tests.helpers.builders import tiny_batch, tiny_model
from tests.helpers.fake_checkpoint import DENSE, config, tokenizer, write_checkpoint

RENORMALISED = {"renormalize_gates": True}
VIT: dict[str, Any] = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "mlp_ratio": 2}


def vit(**settings: Any) -> Any:
    """A small ViT of timm with weights far from their start."""
    model = timm.create_model("vit_tiny_patch16_224", **{"num_classes": 0, **VIT, **settings})
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model.eval()


def dense_pair(router: dict[str, Any]) -> tuple[LIMoE, LIMoE]:
    """A dense model, and one with experts in its second block that started from it."""
    dense, sparse = tiny_model(moe_layers=()), tiny_model(router=router)
    state = upcycled(dense.state_dict(), target=sparse.state_dict())
    left = sparse.load_state_dict(state, strict=False)
    assert left.missing_keys == ["tower.blocks.1.mlp.router.weight"] and not left.unexpected_keys
    return dense.double().eval(), sparse.double().eval()


def features(model: nn.Module) -> Tensor:
    batch = tiny_batch()
    output = model(batch.images.double(), batch.text_ids, batch.text_mask)
    return torch.cat([output.image_features, output.text_features])


@pytest.mark.parametrize("k", [1, 2, 4])
def test_equal_output_at_the_start_with_renormalised_gates(k: int) -> None:
    """The K gates sum to 1 and the experts are one function: sum of gate times f = f."""
    dense, sparse = dense_pair({**RENORMALISED, "k": k})
    assert torch.allclose(features(sparse), features(dense), rtol=0, atol=1e-12)


@pytest.mark.parametrize("k", [1, 2])
def test_raw_gates_scale_the_sparse_layer(k: int) -> None:
    """The layer gives (sum of the K gates) times the dense layer; with all E = 4 experts the sum is 1 again."""
    dense, sparse = dense_pair({"k": k})
    assert not torch.allclose(features(sparse), features(dense), atol=1e-3)
    seen: dict[str, Any] = {}
    mlp = sparse.tower.blocks[1].mlp
    mlp.register_forward_hook(lambda _, inputs, output: seen.update(x=inputs[0], y=output[0], gate=output[1].gate))
    mlp.register_forward_pre_hook(lambda _, inputs: seen.update(packed=inputs[1]))
    features(sparse)
    expected, _ = dense.tower.blocks[1].mlp(seen["x"], seen["packed"])
    valid = seen["packed"].valid[:, None]
    assert torch.allclose(seen["y"], seen["gate"].sum(-1, keepdim=True) * expected * valid, rtol=0, atol=1e-12)
    dense, all_experts = dense_pair({"k": 4})
    assert torch.allclose(features(all_experts), features(dense), rtol=0, atol=1e-12)


def test_experts_are_copies_and_noise_tells_them_apart() -> None:
    dense, sparse = tiny_model(moe_layers=(), width=64, mlp_dim=256), tiny_model(width=64, mlp_dim=256)
    copies = upcycled(dense.state_dict(), target=sparse.state_dict())
    noisy = upcycled(dense.state_dict(), target=sparse.state_dict(), noise=0.1)
    mlp: Any = dense.tower.blocks[1].mlp
    place = "tower.blocks.1.mlp.experts"
    for name, value in (("in", mlp.fc1.weight.T), ("out", mlp.fc2.weight.T)):
        stack = copies[f"{place}.weight_{name}"]
        assert stack.shape == (4, *value.shape) and all(torch.equal(expert, value) for expert in stack)
        noise = noisy[f"{place}.weight_{name}"] - value.detach()
        # 4 x 64 x 256 draws: the standard error of their standard deviation is 0.3 %
        assert noise.std().item() == pytest.approx(0.1 * value.std().item(), rel=0.02)
        assert not torch.equal(noise[0], noise[1])
    for name, value in (("in", mlp.fc1.bias), ("out", mlp.fc2.bias)):
        assert all(torch.equal(expert, value) for expert in noisy[f"{place}.bias_{name}"])


def test_a_whole_run_becomes_sparse(tmp_path: Path) -> None:
    """From the config, as training does it, by run folder and by export; the gates are renormalised at K = 1."""
    dense = write_checkpoint(tmp_path / "run", *DENSE)
    export(tmp_path / "run", out=tmp_path / "out")
    for path in ("run", "run/checkpoints/last.ckpt", "out"):
        cfg = config("init_from=checkpoint", f"init_from.path={tmp_path / path}", "routing.renormalize_gates=true")
        model: Any = build_model(cfg)
        start = initialise(cfg, model, tokenizer=tokenizer())
        assert start is not None and start.fresh == ["tower.blocks.1.mlp.router.weight"] and not start.unused
        assert len(start.experts) == 4 and len(start.copied) == len(dense.state_dict()) - 4
        assert "4 made experts; as drawn: tower.blocks.1.mlp.router.weight" in str(start)
        ids, mask = tokenizer().encode(["a red circle", "a blue square"])
        expected = dense.encode_text(ids, mask)
        assert torch.allclose(model.eval().encode_text(ids, mask), expected, rtol=0, atol=1e-6)


def test_a_resumed_run_keeps_its_own_weights() -> None:
    cfg = config("init_from=checkpoint", "init_from.path=gone", "ckpt_path=last.ckpt")
    assert initialise(cfg, nn.Module(), tokenizer=tokenizer()) is None
    assert initialise(config(), nn.Module(), tokenizer=tokenizer()) is None


def test_sparse_to_sparse_keeps_experts_and_router(tmp_path: Path) -> None:
    trained = write_checkpoint(tmp_path / "run")
    model = build_model(config())
    start = CheckpointWeights(path=str(tmp_path / "run"))(model, tokenizer=tokenizer())
    assert not start.experts and not start.fresh
    assert all(torch.equal(value, trained.state_dict()[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("model.depth=3",), "has 2 blocks, the model 3: set model.depth"),
        (("model.width=32",), r"of another shape: image_embed.patch_embed.proj.bias \[16\] instead of \[32\].* more"),
        (
            ("model.mlp_dim=64",),
            r"of another shape: tower.blocks.0.mlp.fc1.bias \[32\] instead of \[64\], .* 3 more",
        ),
        (("tokenizer.vocab_size=400",), r"text_embed.token_embed.weight \[300, 16\] instead of \[400, 16\]"),
    ],
)
def test_another_shape_is_one_line(tmp_path: Path, overrides: tuple[str, ...], message: str) -> None:
    write_checkpoint(tmp_path / "run", *DENSE)
    with pytest.raises(DataError, match=message) as caught:
        CheckpointWeights(path=str(tmp_path / "run"))(build_model(config(*overrides)), tokenizer=tokenizer())
    assert "\n" not in str(caught.value) and str(caught.value).startswith("init_from: ")


def test_a_sparse_run_does_not_become_dense(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "run")
    with pytest.raises(DataError, match=r"missing: tower.blocks.1.mlp.fc1.bias.* unknown: tower.blocks.1.mlp.experts"):
        CheckpointWeights(path=str(tmp_path / "run"))(build_model(config(*DENSE)), tokenizer=tokenizer())


def test_another_vocabulary_is_one_line(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "run", *DENSE)
    with pytest.raises(DataError, match=r"another vocabulary .* tokenizer=file tokenizer.path=.*tokenizer.json"):
        CheckpointWeights(path=str(tmp_path / "run"))(build_model(config()), tokenizer=tokenizer(word="hexagon"))


def test_files_that_are_not_there() -> None:
    with pytest.raises(DataError, match=r"init_from.path: gone does not exist"):
        CheckpointWeights(path="gone")(nn.Module(), tokenizer=tokenizer())
    with pytest.raises(DataError, match=r"init_from.path: gone.bin does not exist"):
        TimmViTWeights(path="gone.bin")(tiny_model(), tokenizer=tokenizer())


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_vit_of_timm_fills_image_side_and_blocks(tmp_path: Path, suffix: str) -> None:
    """timm's own forward pass is the oracle: without class token and with the tanh GELU it is our image trunk."""
    backbone = vit(class_token=False, global_pool="avg", fc_norm=False, act_layer="gelu_tanh")
    file = tmp_path / f"vit{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(backbone.state_dict(), file)
    model = tiny_model(moe_layers=(1,), router=RENORMALISED)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    start = TimmViTWeights(path=str(file))(model, tokenizer=tokenizer())
    images = torch.rand(3, 3, 8, 8)
    expected = backbone.forward_features(images).mean(1)
    assert torch.allclose(model.eval().image_trunk(images), expected, rtol=0, atol=1e-5)
    kept = {"text_embed", "image_head", "text_head", "logit_scale", "tower"}
    assert {name.split(".")[0] for name in start.fresh} == kept
    assert [name for name in start.fresh if name.startswith("tower")] == ["tower.blocks.1.mlp.router.weight"]
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in start.fresh)
    assert len(start.experts) == 4 and not start.unused


def test_the_class_token_goes_and_patches_keep_their_positions(tmp_path: Path) -> None:
    backbone = vit(num_classes=5)
    save_file(backbone.state_dict(), tmp_path / "vit.safetensors")
    model = tiny_model(moe_layers=())
    start = TimmViTWeights(path=str(tmp_path / "vit.safetensors"))(model, tokenizer=tokenizer())
    assert start.unused == ["cls_token", "head.bias", "head.weight"]
    assert backbone.pos_embed.shape == (1, 5, 16)
    assert torch.equal(model.image_embed.pos_embed, backbone.pos_embed[0, 1:])
    assert torch.equal(model.tower.norm.weight, backbone.norm.weight)


def test_the_image_tower_of_two(tmp_path: Path) -> None:
    save_file(vit(class_token=False, global_pool="avg").state_dict(), tmp_path / "vit.safetensors")
    model = nn.Module()
    model.image = ImageEncoder(image_size=8, patch_size=4, width=16, depth=2, num_heads=2, mlp_dim=32)
    start = TimmViTWeights(path=str(tmp_path / "vit.safetensors"))(model, tokenizer=tokenizer())
    # averaging models of timm normalise after the mean, so there is no last norm to take over
    assert start.unused == ["fc_norm.bias", "fc_norm.weight"]
    assert start.fresh == ["image.tower.norm.bias", "image.tower.norm.weight"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depth": 3}, "has 3 blocks, the model 2: set model.depth"),
        ({"embed_dim": 8}, "of another shape: image_embed.patch_embed.proj.bias"),
        ({"img_size": 16}, r"of another shape: image_embed.pos_embed \[17, 16\] instead of \[4, 16\]"),
        ({"init_values": 0.1}, "unknown: tower.blocks.0.ls1.gamma, "),  # layer scale: another function
        ({"qkv_bias": False}, "missing: tower.blocks.0.attn.qkv.bias, "),
    ],
)
def test_a_vit_that_does_not_fit(tmp_path: Path, settings: Mapping[str, Any], message: str) -> None:
    save_file(vit(**settings).state_dict(), tmp_path / "vit.safetensors")
    with pytest.raises(DataError, match=message) as caught:
        TimmViTWeights(path=str(tmp_path / "vit.safetensors"))(tiny_model(), tokenizer=tokenizer())
    assert "\n" not in str(caught.value)


def test_weights_by_name_are_timms(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def create_model(name: str, **settings: Any) -> nn.Module:
        asked.update(name=name, **settings)
        return backbone

    backbone = vit()
    monkeypatch.setattr("limoe.checkpoints.upcycling.timm.create_model", create_model)
    model = tiny_model(moe_layers=())
    TimmViTWeights(name="vit_x")(model, tokenizer=tokenizer())
    assert asked == {"name": "vit_x", "pretrained": True, "num_classes": 0}
    assert torch.equal(model.tower.blocks[0].attn.qkv.weight, backbone.blocks[0].attn.qkv.weight)
    monkeypatch.undo()
    with pytest.raises(DataError, match=r"init_from.name=no_such_vit \(or give init_from.path=FILE\): cannot read"):
        TimmViTWeights(name="no_such_vit")(model, tokenizer=tokenizer())


@pytest.mark.parametrize("arguments", [{}, {"name": "vit", "path": "vit.bin"}])
def test_one_source_of_a_vit(arguments: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"^name must be given, or path, and not both"):
        TimmViTWeights(**arguments)


def test_values_are_checked() -> None:
    with pytest.raises(ValueError, match=r"^expert_noise must be >= 0, got -1"):
        CheckpointWeights(path="x", expert_noise=-1.0)
    with pytest.raises(ValueError, match=r"^expert_noise must be >= 0, got -1"):
        TimmViTWeights(name="x", expert_noise=-1.0)
    with pytest.raises(ValueError, match="has no image tower of limoe to fill"):
        TimmViTWeights(path=__file__)(nn.Linear(2, 2), tokenizer=tokenizer())
