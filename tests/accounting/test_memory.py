"""Estimates against what autograd and the optimizers really keep."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import limoe.models.layers
from limoe.accounting.anatomy import anatomy
from limoe.accounting.memory import Precision, activations_per_pair, memory, optimizer_state
from limoe.losses.auxiliary.base import AuxLossSet
from limoe.losses.auxiliary.classic import Importance, Load, ZLoss
from limoe.losses.auxiliary.entropy import GlobalEntropy, LocalEntropy
from limoe.models.limoe import LIMoE
from limoe.training.optim import adafactor, adamw, lion
from tests.helpers.builders import top_k_router
from tests.helpers.configs import built

PAIRS = 16
SHAPE = {"width": 64, "depth": 4, "num_heads": 4, "mlp_dim": 256, "image_size": 32, "patch_size": 8}
RUN = {"pairs": PAIRS, "micro_batch": PAIRS, "precision": "32-true", "optimizer": "adamw"}


def model(**changes: Any) -> LIMoE:
    settings = {**SHAPE, "vocab_size": 100, "text_length": 16, "num_experts": 8, **changes}
    return LIMoE(**settings, router=top_k_router)


def kept_per_pair(network: LIMoE, *, mixed: bool) -> float:
    """Bytes of storage that autograd holds after the forward and the router losses, weights left out."""
    own = {p.untyped_storage().data_ptr() for p in network.parameters()}
    held: dict[int, Tensor] = {}

    def pack(x: Tensor) -> Tensor:
        if x.numel() and x.untyped_storage().data_ptr() not in own:
            held[x.untyped_storage().data_ptr()] = x
        return x

    terms = {"i": Importance(), "l": Load(), "z": ZLoss(), "lt": LocalEntropy(modality="text")}
    entropies = {m: GlobalEntropy(modality=m) for m in ("image", "text")}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x), torch.autocast("cpu", enabled=mixed):
        ids, mask = torch.randint(0, 100, (PAIRS, 16)), torch.ones(PAIRS, 16, dtype=torch.bool)
        output = network(torch.randn(PAIRS, 3, 32, 32), ids, mask)
        if output.routing:
            AuxLossSet({**terms, **entropies})(output.routing)
    copies = sum(2 * p.numel() for p in network.parameters() if p.ndim > 1) if mixed else 0
    return (sum(x.untyped_storage().nbytes() for x in held.values()) - copies) / PAIRS


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("layers", [(), (1, 3)])
@pytest.mark.parametrize("backend", ["padded", "loop"])
def test_activations_are_within_a_tenth(
    monkeypatch: pytest.MonkeyPatch, layers: tuple[int, ...], backend: str, mixed: bool
) -> None:
    """With the fused attention, which a GPU uses for all lengths."""
    monkeypatch.setattr(limoe.models.layers, "_SHORT", 0)
    network = model(moe_layers=layers, expert_backend=backend)
    size = Precision.of("bf16-mixed" if mixed else "32-true")
    estimate = activations_per_pair(anatomy(network), size=size, pairs=PAIRS)
    assert estimate == pytest.approx(kept_per_pair(network, mixed=mixed), rel=0.1)


def test_checkpointing_keeps_the_inputs_of_blocks_and_one_block() -> None:
    """4 blocks of 32 tokens of 64 numbers; a block of 9 D + 2 H numbers per token; 3 x 32 x 32 pixels."""
    network = model(activation_checkpointing=True)
    found = activations_per_pair(anatomy(network), size=Precision.of("32-true"), pairs=PAIRS)
    assert found == 4 * (4 * 32 * 64 + 32 * (9 * 64 + 2 * 256) + 3 * 32 * 32)


@pytest.mark.parametrize(("name", "factory"), [("adamw", adamw), ("adafactor", adafactor), ("lion", lion)])
def test_optimizer_state_is_that_of_the_real_optimizer(name: str, factory: Any) -> None:
    network = model(moe_layers=(1,))
    for p in network.parameters():
        p.grad = torch.ones_like(p)
    optimizer = factory(network, lr=1e-3)
    optimizer.step()
    state = [v for values in optimizer.state.values() for v in values.values() if isinstance(v, Tensor)]
    counters = sum(v.nbytes for v in state if v.ndim == 0)  # steps, and two numbers of the temperature
    found = optimizer_state(list(network.parameters()), optimizer=name, size=Precision.of("32-true"))
    assert found is not None
    assert abs(found - sum(v.nbytes for v in state if v.ndim > 0)) <= counters


def test_adafactor_by_hand() -> None:
    """64 x 48: momentum 2 bytes each, and 64 + 48 sums; 8 x 64 has an axis below 32: a second moment of its own."""
    parameters = [nn.Parameter(torch.empty(64, 48)), nn.Parameter(torch.empty(8, 64))]
    size = Precision.of("bf16-mixed")
    assert optimizer_state(parameters, optimizer="adafactor", size=size) == 2 * (3072 + 512) + 4 * (112 + 512)
    assert optimizer_state(parameters, optimizer="sgd", size=size) is None


def test_total_and_what_shrinks_it() -> None:
    network = model(moe_layers=(1,))
    estimate = partial(memory, network, anatomy(network))
    plain = estimate(**RUN)
    numbers = sum(p.numel() for p in network.parameters())
    assert plain["parameters"] == plain["gradients"] == 4 * numbers and plain["optimizer"] == 8 * numbers
    assert plain["contrastive"] == 3 * 4 * PAIRS**2 and plain["weight_copies"] == plain["average"] == 0
    parts = ("parameters", "average", "gradients", "optimizer", "weight_copies", "activations", "contrastive")
    assert plain["total"] == sum(plain[part] for part in parts)
    assert estimate(**RUN, averages=1)["average"] == 4 * numbers
    assert estimate(**RUN, chunk_size=4)["contrastive"] == 3 * 4 * PAIRS * 4
    # 4 of 16 pairs at a time; of the other 12 what a router with 8 experts said of 32 tokens, 5 arrays of 4 bytes
    small = estimate(**{**RUN, "micro_batch": 4})
    assert small["activations"] == pytest.approx(plain["activations_per_pair"] * 4 + 12 * 32 * 8 * 5 * 4, rel=0.05)
    mixed = estimate(**{**RUN, "precision": "bf16-mixed"})
    assert mixed["parameters"] == plain["parameters"] and mixed["activations"] < 0.65 * plain["activations"]
    assert estimate(**{**RUN, "precision": "bf16-true"})["parameters"] == 2 * numbers


def test_a_model_of_timm_is_counted() -> None:
    """A ViT-Ti of 12 blocks, 17 tokens of 192 numbers: 9 D + 2 H = 17 D numbers per token and block, and a little."""
    network = built("model=timm_tiny")
    total = activations_per_pair(anatomy(network), size=Precision.of("32-true"), pairs=PAIRS)
    text = 4 * 4 * 16 * (9 * 128 + 2 * 512)  # our text tower, 4 bytes, 4 blocks of 16 tokens
    assert total - text == pytest.approx(4 * 12 * 17 * 17 * 192, rel=0.2)
    locked = built("model=timm_tiny", "model.image.locked=true")
    rest = activations_per_pair(anatomy(locked), size=Precision.of("32-true"), pairs=PAIRS)
    assert rest - text == 4 * 3 * 32 * 32  # the pixels alone
