"""Closed formulas against PyTorch's counter, and by hand."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from limoe.accounting.anatomy import anatomy
from limoe.accounting.flops import attention, flops, product
from tests.helpers.builders import TINY
from tests.helpers.configs import built

SMALL = ["model.width=32", "model.mlp_dim=64", "model.num_heads=2", "tokenizer.vocab_size=300"]
SMALL_TOWERS = [f"model.{t}.{k}" for t in ("image", "text") for k in ("width=32", "mlp_dim=64", "num_heads=2")]
PAIRS = 16
CASES = {
    "dense": ["model.moe_layers=[]", *SMALL],
    "top_k": SMALL,
    "two choices": ["routing.k=2", *SMALL],
    "no limit": ["routing.capacity_factor=null", "model.expert_backend=padded", *SMALL],
    "per_modality": ["routing=per_modality", *SMALL],
    "expert_choice": ["routing=expert_choice", *SMALL],
    "soft": ["routing=soft", *SMALL],
    "hash": ["routing=hash", *SMALL],
    "checkpointing": ["model.activation_checkpointing=true", *SMALL],
    "two towers": ["model=two_tower_tiny", "tokenizer.vocab_size=300", *SMALL_TOWERS],
    "sparse two towers": ["model=two_tower_moe_tiny", "tokenizer.vocab_size=300", *SMALL_TOWERS],
    "timm": ["model=timm_tiny", "tokenizer.vocab_size=300"],
    "locked": ["model=timm_tiny", "model.image.locked=true", "tokenizer.vocab_size=300"],
}


def counted(model: Any) -> tuple[int, int]:
    """FLOPs of a forward with all pairs, and of the backward, on tensors without values."""
    with torch.device("meta"):
        images = torch.empty(PAIRS, 3, 32, 32)
        ids, mask = torch.zeros(PAIRS, 16, dtype=torch.long), torch.ones(PAIRS, 16, dtype=torch.bool)
        with FlopCounterMode(display=False) as forward:
            output = model(images, ids, mask)
        with FlopCounterMode(display=False) as backward:
            (output.image_features.sum() + output.text_features.sum()).backward()
    return forward.get_total_flops(), backward.get_total_flops()


@pytest.mark.parametrize("case", [name for name in CASES if name != "no limit"])
def test_formulas_equal_the_counter(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # autocast knows no meta device
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)
    model = built(*CASES[case])
    found = flops(anatomy(model), pairs=PAIRS)
    forward, backward = counted(model)
    assert PAIRS * found["pair_all_slots"] == pytest.approx(forward, rel=1e-9)
    assert PAIRS * found["train_pair_all_slots"] == pytest.approx(forward + backward, rel=1e-9)
    assert found["train_step"] == pytest.approx(PAIRS * found["train_pair"], rel=1e-9)


def test_by_hand() -> None:
    """Width 16, 2 blocks of H = 32; 4 image tokens of 4 x 4 pixels, 6 text tokens; heads of 16 x 16."""
    overrides = [f"model.{key}={value}" for key, value in TINY.items() if key not in ("vocab_size", "text_length")]
    found = flops(anatomy(built(*overrides, "model.moe_layers=[]", "tokenizer.length=6")), pairs=1)
    block = 4 * 16 * 16 + 2 * 16 * 32  # multiply-adds of a token: 2048
    image = 4 * (3 * 16 * 16) + 2 * (4 * block + 2 * 4 * 4 * 16) + 16 * 16  # 20,736
    text = 2 * (6 * block + 2 * 6 * 6 * 16) + 16 * 16  # 27,136
    assert (found["image"], found["text"], found["pair"]) == (2 * image, 2 * text, 2 * (image + text))


def test_at_one_expert_per_token_sparse_costs_the_dense_and_its_routers() -> None:
    dense, sparse = (flops(anatomy(built(*CASES[name])), pairs=PAIRS) for name in ("dense", "top_k"))
    routers = 2 * 2 * 32 * 8 * 32  # two layers, 32 tokens, 8 experts, width 32, a multiply-add counts two
    assert sparse["pair"] - dense["pair"] == routers
    assert sparse["pair_all_slots"] > sparse["pair"]
    unlimited = flops(anatomy(built(*CASES["no limit"])), pairs=PAIRS)
    assert unlimited["pair_all_slots"] == unlimited["pair"] == sparse["pair"]


def test_parts() -> None:
    assert product(3, 10).tolist() == [60, 120] and product(3, 10, input_grad=False).tolist() == [60, 60]
    assert attention(4, 8).tolist() == [2 * 2 * 16 * 8, 4 * 2 * 16 * 8]
