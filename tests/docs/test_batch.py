"""docs/batch.md is true: the first batch of the demo has the shapes that the page and its figure name."""

import re
from typing import Any

import lightning as L
import pytest
from torch import Tensor

from limoe.build import build_data, build_module
from limoe.models import layers
from tests.helpers.configs import composed
from tests.helpers.paths import DOCS

PAGE = (DOCS / "batch.md").read_text()


def shape_on_page(name: str) -> list[int]:
    """The shape in the row that names an object."""
    rows = [line for line in PAGE.splitlines() if line.startswith("|") and f"`{name}`" in line.split("|")[1]]
    assert len(rows) == 1, name
    found = re.search(r"`\[([\d, ]+)\]`", rows[0])
    assert found is not None, name
    return [int(size) for size in found[1].split(",")]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What passes by while one training batch goes through the demo's model."""
    cfg = composed("experiment=scenes", "data.size=640")  # fewer captions to train the tokenizer on
    L.seed_everything(cfg.seed, verbose=False)
    data = build_data(cfg)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    module = build_module(cfg).train()
    model, found = module.model, {f"batch.{name}": value for name, value in batch._asdict().items()}
    attend = layers.attend

    def attention(query: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        found["query"] = query
        return attend(query, *args, **kwargs)

    def keep(name: str, value: Any) -> None:
        found[name] = value

    monkeypatch.setattr(layers, "attend", attention)
    parts = {"image_embed": "image_embed", "text_embed": "text_embed", "tower.norm": "tower.norm"}
    parts |= {"attn.qkv": "tower.blocks.0.attn.qkv", "mlp": "tower.blocks.0.mlp.fc1"}
    for name, path in parts.items():
        model.get_submodule(path).register_forward_hook(lambda m, i, out, name=name: keep(name, out))
    model.tower.register_forward_pre_hook(lambda m, inputs: found.update(x=inputs[0], tokens=inputs[1]))
    experts = model.tower.blocks[1].mlp.experts
    experts.register_forward_pre_hook(lambda m, inputs: keep("buffers", inputs[0].tokens))
    model.tower.blocks[1].mlp.register_forward_hook(lambda m, i, out: keep("y", out[0]))
    model.image_head.register_forward_hook(lambda m, inputs, out: keep("pooled", inputs[0]))
    output = model(batch.images, batch.text_ids, batch.text_mask)
    found |= {name: getattr(output, name) for name in ("image_features", "text_features")}
    found |= {f"tokens.{name}": getattr(found["tokens"], name) for name in ("modality", "valid", "pair")}
    found |= vars(output.routing[1])
    sparse = model.tower.blocks[1].mlp
    found |= {"router.weight": sparse.router.weight, "weight_in": sparse.experts.weight_in}
    groups = sparse.router.capacity.groups(found["tokens"], num_experts=8, training=True)
    found |= {"group": groups.of_token, "groups": groups, "aux": module.aux_losses(output.routing)}
    return found | {"similarity": output.image_features @ output.text_features.T, "routing": output.routing}


FIRST_CELLS = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `") and "`[" in line]
NAMES = [
    name
    for cell in FIRST_CELLS
    for name in re.findall(r"`([\w.]+)`", cell)
    if name not in ("weight_out", "logit_scale")
]


def test_the_batch_is_as_described(seen: dict[str, Any]) -> None:
    assert len(NAMES) == 28
    for name in NAMES:
        assert list(seen[name].shape) == shape_on_page(name), name
    assert list(seen["routing"]) == [1, 3] and len(seen["aux"].raw) == 6
    assert (seen["groups"].total, seen["groups"].capacity) == (8, 36)
    assert "562 real tokens" in PAGE  # of the whole data set; here the figure and the page agree
    figure = (DOCS / "batch.svg").read_text()
    for text in ("562 text", "462 padding", "36 slots per expert", "[8, 288, 128]", "[64, 16, 128]", "[2048, 8]"):
        assert text in figure
