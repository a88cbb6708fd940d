"""The one-tower model: sizes, independence of samples and padding, dense and sparse."""

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from limoe.errors import ArgumentError
from limoe.losses.auxiliary.base import AuxLossSet
from limoe.losses.auxiliary.classic import Importance, ZLoss
from limoe.losses.auxiliary.entropy import GlobalEntropy, LocalEntropy
from limoe.losses.contrastive import SoftmaxContrastive
from limoe.models.limoe import LIMoE
from limoe.models.tower import Tower
from limoe.routing.priority import bpr
from limoe.routing.statistics import modality_statistics
from limoe.routing.token_choice import TopKRouter
from limoe.types import IMAGE, TEXT, Batch, ModelOutput
from tests.helpers.builders import packed_pairs, tiny_batch, tiny_model, top_k_router

H14 = {
    "width": 1280,
    "depth": 32,
    "num_heads": 16,
    "mlp_dim": 5120,
    "image_size": 224,
    "patch_size": 14,
    "vocab_size": 32_000,
    "text_length": 16,
}
LOSSES = AuxLossSet(
    {
        "importance": Importance(),
        "z": ZLoss(),
        "local_text": LocalEntropy(modality="text"),
        "global_image": GlobalEntropy(modality="image"),
        "global_text": GlobalEntropy(modality="text"),
    }
)


def count(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def dense_parameters(*, d: int, depth: int, h: int, patch: int, n_i: int) -> int:
    """Blocks, then patches, positions, table of 32,000, 16 text positions, patch bias, final norm and two heads."""
    return depth * (4 * d**2 + 9 * d + 2 * d * h + h) + (3 * patch**2 + n_i + 32_019 + 2 * d) * d


def on_meta(**settings: Any) -> LIMoE:
    with torch.device("meta"):
        return LIMoE(router=partial(TopKRouter, priority=bpr), **settings)


def test_h14_has_the_papers_parameters() -> None:
    dense = count(on_meta(**H14))
    sparse = count(on_meta(**H14, moe_layers=range(9, 32, 2), num_experts=32))
    assert dense == dense_parameters(d=1280, depth=32, h=5120, patch=14, n_i=256) + 1  # and the temperature
    assert f"{dense / 1e6:.1f}M" == "675.0M"
    expert = 2 * 1280 * 5120 + 5120 + 1280
    assert sparse == dense + 12 * (31 * expert + 1280 * 32)
    assert f"{sparse / 1e9:.2f}B" == "5.55B"


@pytest.mark.parametrize(
    ("d", "depth", "heads", "patch", "millions"),
    [(512, 8, 8, 32, 43.7), (384, 12, 6, 16, 34.3), (768, 12, 12, 16, 112), (1024, 24, 16, 32, 340)],
)
def test_smaller_sizes(d: int, depth: int, heads: int, patch: int, millions: float) -> None:
    shape = {"width": d, "depth": depth, "num_heads": heads, "mlp_dim": 4 * d, "patch_size": patch}
    found = count(on_meta(**{**H14, **shape}))
    assert found == dense_parameters(d=d, depth=depth, h=4 * d, patch=patch, n_i=(224 // patch) ** 2) + 1
    assert found / 1e6 == pytest.approx(millions, rel=0.005)


def forward(model: LIMoE, batch: Batch) -> ModelOutput:
    return model(batch.images, batch.text_ids, batch.text_mask)


def test_features_are_unit_length_and_the_temperature_starts_at_ten() -> None:
    output = forward(tiny_model(out_dim=5), tiny_batch())
    for features in (output.image_features, output.text_features):
        assert features.shape == (4, 5)
        torch.testing.assert_close(features.norm(dim=-1), torch.ones(4))
    assert output.logit_scale.item() == pytest.approx(10)
    assert list(output.routing) == [1]


@pytest.mark.parametrize("k", [1, 2])
def test_in_evaluation_forward_equals_the_encoders(k: int) -> None:
    model, batch = tiny_model(router={"k": k}).eval(), tiny_batch()
    output = forward(model, batch)
    torch.testing.assert_close(output.image_features, model.encode_image(batch.images))
    torch.testing.assert_close(output.text_features, model.encode_text(batch.text_ids, batch.text_mask))


def test_in_evaluation_a_sample_does_not_depend_on_its_batch() -> None:
    model, batch = tiny_model(moe_layers=(0, 1), router={"k": 2, "pairs_per_group": 2}).eval(), tiny_batch(pairs=7)
    together = forward(model, batch)
    for i in range(7):
        alone = model(batch.images[i : i + 1], batch.text_ids[i : i + 1], batch.text_mask[i : i + 1])
        torch.testing.assert_close(alone.image_features[0], together.image_features[i])
        torch.testing.assert_close(alone.text_features[0], together.text_features[i])


def everything(output: ModelOutput) -> list[Tensor]:
    loss = SoftmaxContrastive()(output.image_features, output.text_features, output.logit_scale)
    aux = LOSSES(output.routing)
    numbers = [v for r in output.routing.values() for m in (IMAGE, TEXT) for v in modality_statistics(r, m)]
    return [output.image_features, output.text_features, loss, aux.total, *aux.raw.values(), *numbers]


def test_appending_padding_changes_nothing() -> None:
    """In evaluation, on features, losses and statistics."""
    model, batch = tiny_model(moe_layers=(0, 1)).eval(), tiny_batch(pairs=3)  # texts of 2, 3 and 4 tokens
    short = forward(model, batch._replace(text_ids=batch.text_ids[:, :4], text_mask=batch.text_mask[:, :4]))
    for a, b in zip(everything(short), everything(forward(model, batch)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_what_padding_looks_like_changes_nothing(training: bool) -> None:
    """Also in training, where slots are scarce; gradients of the table rows that only padding uses are zero."""
    router = {"noise_std": 0.0, "capacity_factor": 0.5, "capacity_multiple_of": 1}
    model, batch = tiny_model(moe_layers=(0, 1), router=router).train(training), tiny_batch()
    other = batch._replace(text_ids=batch.text_ids.masked_fill(~batch.text_mask, 12))
    first, second = forward(model, batch), forward(model, other)
    routed = first.routing[0]
    assert routed.kept[routed.valid].all() != training  # slots are scarce in training only
    for a, b in zip(everything(first), everything(second), strict=True):
        assert torch.equal(a, b)
    sum(everything(first)[2:4]).backward()
    assert not model.text_embed.token_embed.weight.grad[0].any()  # id 0 is used by padding alone


def test_count_pad_lets_padding_take_slots_and_enter_losses() -> None:
    batch = tiny_batch()
    model = tiny_model(router={"count_pad": True, "noise_std": 0.0})
    routed = forward(model, batch).routing[1]
    assert routed.valid.all()
    other = batch._replace(text_ids=batch.text_ids.masked_fill(~batch.text_mask, 12))
    assert LOSSES({1: routed}).total != LOSSES(forward(model, other).routing).total


def test_modalities_meet_only_in_the_router() -> None:
    """Dense, or sparse with room for all: images do not know the texts beside them."""
    batch = tiny_batch()
    changed = batch._replace(text_ids=(batch.text_ids + 1) % 13)
    for model in (tiny_model(moe_layers=()), tiny_model(router={"capacity_factor": None, "noise_std": 0.0})):
        torch.testing.assert_close(forward(model, batch).image_features, forward(model, changed).image_features)
    scarce = tiny_model(router={"capacity_factor": 0.25, "capacity_multiple_of": 1, "noise_std": 0.0}).double()
    double = batch._replace(images=batch.images.double())
    first = forward(scarce, double)
    second = forward(scarce, double._replace(text_mask=torch.zeros_like(batch.text_mask)))
    assert not torch.equal(first.routing[1].kept[:16], second.routing[1].kept[:16])  # texts took slots from images


def test_dense_differs_by_moe_layers_alone() -> None:
    dense, batch = tiny_model(moe_layers=()), tiny_batch()
    output = forward(dense, batch)
    assert output.routing == {}
    sparse = tiny_model(num_experts=1, expert_init="identical", moe_layers=(1,)).eval()
    state = dense.state_dict()
    for name, target in (("fc1", "in"), ("fc2", "out")):
        state[f"tower.blocks.1.mlp.experts.weight_{target}"] = state.pop(f"tower.blocks.1.mlp.{name}.weight").T[None]
        state[f"tower.blocks.1.mlp.experts.bias_{target}"] = state.pop(f"tower.blocks.1.mlp.{name}.bias")[None]
    state["tower.blocks.1.mlp.router.weight"] = torch.randn(1, 16)
    sparse.load_state_dict(state)
    torch.testing.assert_close(forward(sparse, batch).image_features, output.image_features)
    torch.testing.assert_close(forward(sparse, batch).text_features, output.text_features)


def test_a_batch_of_one_trains() -> None:
    output = forward(tiny_model(), tiny_batch(pairs=1))
    output.image_features.sum().backward()
    assert output.image_features.isfinite().all()


def test_a_text_without_any_token_gives_finite_values_and_gradients() -> None:
    model, batch = tiny_model(), tiny_batch()
    batch.text_mask[0] = False
    output = forward(model, batch)
    loss = SoftmaxContrastive()(output.image_features, output.text_features, output.logit_scale)
    (loss + LOSSES(output.routing).total).backward()
    assert all(value.isfinite().all() for value in (output.text_features, loss))
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_every_parameter_gets_a_gradient() -> None:
    """Otherwise DDP needs to search for unused parameters."""
    model = tiny_model(moe_layers=(0, 1))
    output = forward(model, tiny_batch())
    SoftmaxContrastive()(output.image_features, output.text_features, output.logit_scale).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_sparse_model_runs_in_bfloat16() -> None:
    model, batch = tiny_model().bfloat16(), tiny_batch()
    output = forward(model, batch._replace(images=batch.images.bfloat16()))
    assert output.image_features.dtype == torch.float32 and output.routing[1].gates.dtype == torch.float32


def test_temperature_is_clamped() -> None:
    model = tiny_model(max_logit_scale=50.0)
    model.logit_scale.data.fill_(7.0)
    model.clamp_logit_scale()
    assert model.logit_scale.exp().item() == pytest.approx(50)
    model.logit_scale.data.fill_(-3.0)
    model.clamp_logit_scale()
    assert model.logit_scale.item() == -3.0


def test_state_round_trips() -> None:
    model, copy, batch = tiny_model().eval(), tiny_model().eval(), tiny_batch()
    copy.load_state_dict(model.state_dict())
    assert torch.equal(forward(model, batch).text_features, forward(copy, batch).text_features)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 9}, r"image_size must be a multiple of patch_size=4, got 9"),
        ({"num_heads": 3}, r"width must be a multiple of num_heads=3, got 16"),
        ({"depth": 0, "moe_layers": ()}, r"depth must be >= 1, got 0"),
        ({"moe_layers": (2,)}, r"moe_layers must be distinct numbers from 0 to 1, got \[2\]"),
        ({"moe_layers": (1, 1)}, r"moe_layers must be distinct"),
        ({"moe_layers": (-1,)}, r"moe_layers must be distinct"),
        ({"init_logit_scale": 0.0}, r"init_logit_scale must be in \(0, 100\.0\], got 0\.0"),
        ({"init_logit_scale": 101.0}, r"init_logit_scale must be in"),
    ],
)
def test_bad_sizes(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        tiny_model(**change)


def test_sparse_layers_need_a_router() -> None:
    with pytest.raises(ArgumentError, match=r"router must be given"):
        Tower(8, depth=1, num_heads=2, mlp_dim=8, moe_layers=[0])


def test_tower_routes_each_sparse_layer_once_in_order() -> None:
    tower = Tower(8, depth=4, num_heads=2, mlp_dim=8, moe_layers=[3, 1], num_experts=2, router=top_k_router)
    _, routing = tower(torch.randn(6, 8), packed_pairs(pairs=2, image_tokens=2, text_tokens=1))
    assert list(routing) == [1, 3]


def test_initial_temperature_is_stored_as_log() -> None:
    assert tiny_model(init_logit_scale=20.0).logit_scale.item() == pytest.approx(math.log(20))
