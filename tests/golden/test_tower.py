"""The dense parts, whole encoders and a sigmoid two-tower against numbers of the JAX reference (vmoe).

Not expressible here, and so not compared: class token, attention pooling, tanh head, sin-cos positions, qk-norm.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limoe.losses.auxiliary.classic import Importance
from limoe.losses.contrastive import SigmoidContrastive
from limoe.models.layers import ImageEmbed, TextEmbed
from limoe.models.tower import Tower
from limoe.routing.priority import bpr, first_come
from limoe.routing.token_choice import TopKRouter
from limoe.types import IMAGE, TEXT, PackedTokens, RouterOutput, Segment
from tests.helpers.reference import arrays, cases, close, group_losses

OUTPUT, GRADIENT = 2e-6, 1e-5
WIDTH = 16
Lookup = Callable[[str], np.ndarray]  # path of a flax parameter -> values


def build_tower(settings: dict[str, Any], *, length: int) -> Tower:
    moe = settings["moe"] or {"layers": [], "num_experts": 1}
    tower = partial(Tower, WIDTH, depth=settings["num_layers"], num_heads=2, mlp_dim=settings["mlp_dim"])
    if not moe["layers"]:
        return tower().eval()
    dispatcher = moe["router"]["dispatcher"]
    router = partial(
        TopKRouter,
        k=moe["router"]["num_selected_experts"],
        priority=bpr if dispatcher["batch_priority"] else first_come,
        eval_capacity_factor=dispatcher["capacity_factor"],
        capacity_multiple_of=1,
        pairs_per_group=moe["group_size"] // length,
    )
    return tower(moe_layers=moe["layers"], num_experts=moe["num_experts"], router=router).eval()


def tower_layout(tower: Tower, get: Lookup) -> dict[str, Tensor]:
    """What the reference calls its parameters (or their gradients), under our names and in our shapes."""
    found = {"norm.weight": _tensor(get("encoder_norm/scale")), "norm.bias": _tensor(get("encoder_norm/bias"))}
    for layer, block in enumerate(tower.blocks):
        flax, ours = f"encoderblock_{layer}", f"blocks.{layer}"
        for number in (0, 1):
            found[f"{ours}.norm{number + 1}.weight"] = _tensor(get(f"{flax}/LayerNorm_{number}/scale"))
            found[f"{ours}.norm{number + 1}.bias"] = _tensor(get(f"{flax}/LayerNorm_{number}/bias"))
        attention = f"{flax}/SelfAttention"
        kernels = [get(f"{attention}/{part}/kernel").reshape(WIDTH, -1).T for part in ("query", "key", "value")]
        biases = [get(f"{attention}/{part}/bias").reshape(-1) for part in ("query", "key", "value")]
        found[f"{ours}.attn.qkv.weight"] = _tensor(np.concatenate(kernels))
        found[f"{ours}.attn.qkv.bias"] = _tensor(np.concatenate(biases))
        found[f"{ours}.attn.proj.weight"] = _tensor(get(f"{attention}/out/kernel").reshape(-1, WIDTH).T)
        found[f"{ours}.attn.proj.bias"] = _tensor(get(f"{attention}/out/bias"))
        if hasattr(block.mlp, "router"):
            found[f"{ours}.mlp.router.weight"] = _tensor(get(f"{flax}/Moe/Router/dense/kernel").T)
            for name, number in (("in", 0), ("out", 1)):
                found[f"{ours}.mlp.experts.weight_{name}"] = _tensor(get(f"{flax}/Moe/Mlp/Dense_{number}/kernel"))
                found[f"{ours}.mlp.experts.bias_{name}"] = _tensor(get(f"{flax}/Moe/Mlp/Dense_{number}/bias"))
        else:
            for number in (0, 1):
                found[f"{ours}.mlp.fc{number + 1}.weight"] = _tensor(get(f"{flax}/Mlp/Dense_{number}/kernel").T)
                found[f"{ours}.mlp.fc{number + 1}.bias"] = _tensor(get(f"{flax}/Mlp/Dense_{number}/bias"))
    return found


def image_layout(get: Lookup) -> dict[str, Tensor]:
    return {
        "patch_embed.proj.weight": _tensor(get("embedding/kernel").transpose(3, 2, 0, 1)),
        "patch_embed.proj.bias": _tensor(get("embedding/bias")),
        "pos_embed": _tensor(get("Encoder/posembed_input/pos_embedding")[0]),
    }


def text_layout(get: Lookup) -> dict[str, Tensor]:
    return {
        "token_embed.weight": _tensor(get("Embed_0/embedding")),
        "pos_embed": _tensor(get("Encoder/posembed_input/pos_embedding")[0]),
    }


def head_layout(get: Lookup) -> dict[str, Tensor]:
    return {"weight": _tensor(get("head/kernel").T), "bias": _tensor(get("head/bias"))}


def _tensor(x: np.ndarray) -> Tensor:
    return torch.from_numpy(x.copy())


def lookup(given: dict[str, np.ndarray], prefix: str) -> Lookup:
    return lambda path: given[f"{prefix}{path}"]


def load(module: nn.Module, layout: dict[str, Tensor]) -> None:
    module.load_state_dict(layout)


def check_gradients(module: nn.Module, layout: dict[str, Tensor]) -> None:
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        close(parameter.grad, layout[name].numpy(), GRADIENT)


def run_tower(tower: Tower, tokens: Tensor, modality: int = IMAGE) -> tuple[Tensor, dict[int, RouterOutput]]:
    packed = PackedTokens.of([Segment(modality, size=len(tokens), length=tokens.shape[1])], device=tokens.device)
    y, routing = tower(tokens.flatten(0, 1), packed)
    return y.view_as(tokens), routing


def auxiliary(routing: dict[int, RouterOutput], settings: dict[str, Any], *, num_tokens: int) -> Tensor:
    """Per group, summed over layers. Without noise the reference has the importance loss alone."""
    if not routing:
        return torch.zeros(1)
    groups, weight = num_tokens // settings["moe"]["group_size"], settings["moe"]["router"]["importance_loss_weight"]
    return weight * torch.stack([group_losses(Importance(), routed, groups) for routed in routing.values()]).sum(0)


@pytest.mark.parametrize("name", ["enc_dense", "enc_moe_k1"])
def test_encoder(name: str) -> None:
    given, settings = arrays("vit"), cases("vit")[name]["kw"]
    x, cotangent = (_tensor(given[f"{name}/in/{key}"]) for key in ("x", "cot"))
    tower = build_tower(settings, length=x.shape[1])
    parameters, gradients = (tower_layout(tower, lookup(given, f"{name}/{kind}/")) for kind in ("param", "grad"))
    load(tower, parameters)
    position = _tensor(given[f"{name}/param/posembed_input/pos_embedding"]).requires_grad_()
    y, routing = run_tower(tower, x + position)
    close(y, given[f"{name}/out/y"], OUTPUT)
    aux = auxiliary(routing, settings, num_tokens=x.shape[0] * x.shape[1])
    if routing:
        close(aux, given[f"{name}/out/met/auxiliary_loss"], OUTPUT)
    main = (y * cotangent).sum() + aux.mean()
    close(main, given[f"{name}/out/main"], OUTPUT)
    main.backward()
    check_gradients(tower, gradients)
    assert position.grad is not None
    close(position.grad, given[f"{name}/grad/posembed_input/pos_embedding"], GRADIENT)


def test_image_tower_with_mean_pooling() -> None:
    """Two experts per token, two images per group, a quarter fewer slots than assignments."""
    name, given = "vit_gap_k2", arrays("vit")
    settings = cases("vit")[name]["kw"]["encoder"]
    images = _tensor(given[f"{name}/in/img"]).permute(0, 3, 1, 2)
    embed, tower = ImageEmbed(WIDTH, image_size=16, patch_size=4), build_tower(settings, length=16)
    for kind, use in (("param", load), ("grad", check_gradients)):
        get, inside = lookup(given, f"{name}/{kind}/"), lookup(given, f"{name}/{kind}/Encoder/")
        if kind == "grad":
            y, routing = run_tower(tower, embed(images))
            close(y.mean(1), given[f"{name}/out/y"], OUTPUT)
            aux = auxiliary(routing, settings, num_tokens=4 * 16)
            close(aux, given[f"{name}/out/met/auxiliary_loss"], OUTPUT)
            ((y.mean(1) * _tensor(given[f"{name}/in/cot"])).sum() + aux.mean()).backward()
        use(embed, image_layout(get))
        use(tower, tower_layout(tower, inside))


@pytest.mark.parametrize(("name", "pool"), [("txt_gap", "mean"), ("txt_last", "last")])
def test_text_tower(name: str, pool: str) -> None:
    given, settings = arrays("vit"), cases("vit")[name]["kw"]["encoder"]
    ids = _tensor(given[f"{name}/in/text"]).long()
    embed, head = TextEmbed(WIDTH, vocab_size=20, length=8), nn.Linear(WIDTH, 6)
    tower = build_tower(settings, length=8)
    get, inside = lookup(given, f"{name}/param/"), lookup(given, f"{name}/param/Encoder/")
    load(embed, text_layout(get)), load(head, head_layout(get)), load(tower, tower_layout(tower, inside))
    tokens, routing = run_tower(tower, embed(ids), TEXT)
    y = head(tokens.mean(1) if pool == "mean" else tokens[:, -1])
    close(y, given[f"{name}/out/y"], OUTPUT)
    ((y * _tensor(given[f"{name}/in/cot"])).sum() + auxiliary(routing, settings, num_tokens=32).mean()).backward()
    get, inside = lookup(given, f"{name}/grad/"), lookup(given, f"{name}/grad/Encoder/")
    check_gradients(embed, text_layout(get))
    check_gradients(head, head_layout(get))
    check_gradients(tower, tower_layout(tower, inside))


def test_two_towers_with_the_sigmoid_loss() -> None:
    """From pixels and ids to the loss and back to every parameter, temperature and bias included."""
    name, given = "two_tower_bias", arrays("vit")
    settings = cases("vit")[name]["kw"]
    image, text = ImageEmbed(WIDTH, image_size=8, patch_size=4), TextEmbed(WIDTH, vocab_size=20, length=8)
    towers = [build_tower(settings[key]["encoder"], length=n) for key, n in (("image", 4), ("text", 8))]
    heads = [nn.Linear(WIDTH, 8) for _ in range(2)]
    sigmoid = SigmoidContrastive()

    def visit(kind: str, use: Callable[[nn.Module, dict[str, Tensor]], None]) -> None:
        for short, embed, layout, tower, head in zip(
            ("img", "txt"), (image, text), (image_layout, text_layout), towers, heads, strict=True
        ):
            get = lookup(given, f"{name}/{kind}/{short}/")
            use(embed, layout(get)), use(head, head_layout(get))
            use(tower, tower_layout(tower, lookup(given, f"{name}/{kind}/{short}/Encoder/")))
        use(sigmoid, {"bias": _tensor(given[f"{name}/{kind}/b"])})

    visit("param", load)
    log_scale = _tensor(given[f"{name}/param/s"]).requires_grad_()
    features = []
    for tokens, tower, head, key in zip(
        (image(_tensor(given[f"{name}/in/img"]).permute(0, 3, 1, 2)), text(_tensor(given[f"{name}/in/text"]).long())),
        towers,
        heads,
        ("zimg", "ztxt"),
        strict=True,
    ):
        features.append(F.normalize(head(run_tower(tower, tokens)[0].mean(1)), dim=-1))
        close(features[-1], given[f"{name}/out/{key}"], OUTPUT)
    loss = sigmoid(*features, log_scale.exp())
    close(loss, given[f"{name}/out/main"], OUTPUT)
    loss.backward()
    visit("grad", check_gradients)
    assert log_scale.grad is not None
    close(log_scale.grad, given[f"{name}/grad/s"], GRADIENT)
