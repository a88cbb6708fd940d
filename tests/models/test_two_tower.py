"""Two towers: each sees its own modality, dense or sparse, and everything that reads routers copes."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from limoe.callbacks.collapse_alarm import CollapseAlarm
from limoe.callbacks.routing_health import RoutingHealth
from limoe.errors import ArgumentError
from limoe.losses.auxiliary.base import AuxLossSet
from limoe.losses.auxiliary.classic import Importance
from limoe.losses.auxiliary.entropy import LocalEntropy
from limoe.losses.contrastive import SoftmaxContrastive
from limoe.models.encoders import ImageEncoder, TextEncoder
from limoe.models.two_tower import TwoTower
from limoe.training.lit_module import LIMoEModule
from limoe.training.optim import adamw
from limoe.types import IMAGE, TEXT, Batch, ModelOutput
from tests.helpers.builders import TINY, Batches, quiet_trainer, tiny_batch, top_k_router

TOWER = {"width": 16, "depth": 2, "num_heads": 2, "mlp_dim": 32, "num_experts": 4, "expert_init": "independent"}
INPUT = {name: TINY[name] for name in ("image_size", "vocab_size", "text_length")}


def two_towers(*, image_layers: tuple[int, ...] = (), text_layers: tuple[int, ...] = (), **changes: Any) -> TwoTower:
    """As `tiny_model`, with a tower per modality; the text tower is 24 wide."""
    image = partial(ImageEncoder, patch_size=4, moe_layers=image_layers, router=top_k_router, **TOWER)
    text = partial(TextEncoder, moe_layers=text_layers, router=top_k_router, **{**TOWER, "width": 24})
    return TwoTower(image=image, text=text, **{**INPUT, **changes})


def forward(model: TwoTower, batch: Batch) -> ModelOutput:
    return model(batch.images, batch.text_ids, batch.text_mask)


def test_features() -> None:
    output = forward(two_towers(), tiny_batch())
    assert output.image_features.shape == output.text_features.shape == (4, 16)  # the image tower's width
    for features in (output.image_features, output.text_features):
        torch.testing.assert_close(features.norm(dim=-1), torch.ones(4))
    assert output.logit_scale.item() == pytest.approx(10) and output.routing == {}
    assert forward(two_towers(out_dim=5), tiny_batch()).text_features.shape == (4, 5)


@pytest.mark.parametrize("layers", [(), (0, 1)])
def test_in_evaluation_forward_equals_the_encoders(layers: tuple[int, ...]) -> None:
    model, batch = two_towers(image_layers=layers, text_layers=layers).eval(), tiny_batch()
    output = forward(model, batch)
    assert torch.equal(output.image_features, model.encode_image(batch.images))
    assert torch.equal(output.text_features, model.encode_text(batch.text_ids, batch.text_mask))
    assert model.image_trunk(batch.images).shape == (4, 16)
    assert model.text_trunk(batch.text_ids, batch.text_mask).shape == (4, 24)


def test_blocks_are_those_of_both_towers() -> None:
    model: Any = two_towers()
    assert model.transformer_blocks() == [*model.image.tower.blocks, *model.text.tower.blocks]


def test_what_is_no_encoder_is_refused() -> None:
    with pytest.raises(
        ArgumentError, match=r"text must be a factory of limoe\.models\.encoders\.Encoder, got 'Flatten'"
    ):
        TwoTower(image=partial(ImageEncoder, patch_size=4, **TOWER), text=lambda **_: nn.Flatten(), **INPUT)


def test_text_layers_are_numbered_after_image_layers() -> None:
    routing = forward(two_towers(image_layers=(1,), text_layers=(0, 1)), tiny_batch()).routing
    assert list(routing) == [1, 2, 3]
    assert [routed.modalities for routed in routing.values()] == [(IMAGE,), (TEXT,), (TEXT,)]
    assert [len(routed.logits) for routed in routing.values()] == [16, 24, 24]  # 4 pairs of 4 and of 6 tokens


def test_modalities_meet_nowhere_but_in_the_loss() -> None:
    model, batch = two_towers(image_layers=(0, 1), text_layers=(0, 1)).eval(), tiny_batch()
    other = batch._replace(text_ids=(batch.text_ids + 1) % 13)
    assert torch.equal(forward(model, batch).image_features, forward(model, other).image_features)


def test_every_parameter_gets_a_gradient() -> None:
    model = two_towers(image_layers=(1,), text_layers=(0,))
    output = forward(model, tiny_batch())
    SoftmaxContrastive()(output.image_features, output.text_features, output.logit_scale).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_without_an_image_head_the_joint_space_is_the_image_towers() -> None:
    model, batch = two_towers(image_head="none"), tiny_batch()
    expected = torch.nn.functional.normalize(model.image_trunk(batch.images), dim=-1)
    torch.testing.assert_close(model.encode_image(batch.images), expected)
    with pytest.raises(ArgumentError, match=r"out_dim must be null or 16 where image_head is none, got 8"):
        two_towers(image_head="none", out_dim=8)
    with pytest.raises(ArgumentError, match=r"image_head must be 'linear' or 'none', got 'mlp'"):
        two_towers(image_head="mlp")


class TestLossesAndHealth:
    """A router of one modality counts for the losses on that modality alone, and nothing is NaN."""

    def test_a_loss_on_text_is_the_mean_over_text_layers(self) -> None:
        routing = forward(two_towers(image_layers=(0, 1), text_layers=(1,)), tiny_batch()).routing
        total = AuxLossSet({"local_text": LocalEntropy(modality="text"), "importance": Importance()})(routing)
        torch.testing.assert_close(total.raw["local_text"], LocalEntropy(modality="text")(routing[3]))
        every = [Importance()(routed) for routed in routing.values()]
        torch.testing.assert_close(total.raw["importance"], torch.stack(every).mean())

    def test_a_loss_on_a_modality_without_sparse_layers_is_refused(self) -> None:
        routing = forward(two_towers(image_layers=(1,)), tiny_batch()).routing
        with pytest.raises(ValueError, match=r"the auxiliary loss local_text: no sparse layer sees its modality"):
            AuxLossSet({"local_text": LocalEntropy(modality="text")})(routing)

    @pytest.mark.parametrize("layers", [((1,), (0, 1)), ((), (1,)), ((1,), ())])
    def test_training_logs_health_of_what_there_is(self, tmp_path: Path, layers: Any) -> None:
        image, text = layers
        names = [name for name, own in (("image", image), ("text", text)) if own]
        terms = {f"local_{name}": LocalEntropy(modality=name) for name in names}
        module = LIMoEModule(
            two_towers(image_layers=image, text_layers=text),
            contrastive=SoftmaxContrastive(),
            aux_losses=AuxLossSet(terms),
            optimizer=partial(adamw, lr=1e-3),
            scheduler=lambda step: 1.0,
            config={},
        )
        trainer = quiet_trainer(tmp_path, max_steps=2, callbacks=[RoutingHealth(every_n_steps=1), CollapseAlarm()])
        trainer.fit(module, Batches([tiny_batch(), tiny_batch(seed=1)]), Batches([tiny_batch(seed=2)]))
        lines = [json.loads(line) for line in (tmp_path / "routing" / "health.jsonl").read_text().splitlines()]
        expected = {*((layer, "image") for layer in image), *((2 + layer, "text") for layer in text)}
        assert {(line["layer"], line["modality"]) for line in lines} == expected
        assert all(0 <= line["success_rate"] <= 1 for line in lines)
        logged: dict[str, Tensor] = trainer.logged_metrics  # type: ignore[assignment]
        assert all(value.isfinite() for value in logged.values())
        assert {key for key in logged if key.endswith("success_rate_min")} == {
            f"router/{name}/success_rate_min" for name in names
        }
