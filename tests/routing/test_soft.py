"""Soft MoE: mixtures inside one sequence."""

import pytest
import torch
from torch import Tensor

from limoe.errors import ArgumentError
from limoe.losses.auxiliary.classic import Importance, ZLoss
from limoe.losses.auxiliary.entropy import GlobalEntropy, LocalEntropy
from limoe.models.moe import MoE
from limoe.routing.soft import SoftRouter
from limoe.routing.statistics import modality_statistics
from limoe.types import BUFFERS, TEXT, ExpertTokens
from tests.helpers.builders import decide, packed_groups, packed_pairs

MASK = torch.tensor([[True, True, False, False], [True, False, False, True], [False] * 4])
PACKED = packed_pairs(pairs=3, image_tokens=5, text_tokens=4, text_mask=MASK)


def soft(**settings: object) -> SoftRouter:
    return SoftRouter(3, **{"num_experts": 2, "slots_per_expert": 2, **settings})


def by_hand(x: Tensor, router: SoftRouter, experts: list) -> Tensor:
    """One sequence of real tokens, written out from the paper's algorithm."""
    unit = [v / (v @ v + 1e-6).sqrt() for v in x]
    slots = [v / (v @ v + 1e-6).sqrt() for v in router.weight]
    logits = torch.stack([torch.stack([router.scale * (t @ s) for s in slots]) for t in unit])
    mixtures = [sum(w * t for w, t in zip(logits[:, s].softmax(0), x, strict=True)) for s in range(len(slots))]
    answers = [experts[s // router.slots_per_expert](m) for s, m in enumerate(mixtures)]
    return torch.stack([sum(w * a for w, a in zip(row.softmax(0), answers, strict=True)) for row in logits])


def test_equals_the_algorithm_sequence_by_sequence() -> None:
    router = soft().double()
    router.scale.data.fill_(3.0)
    x = torch.randn(27, 3, dtype=torch.float64)
    dispatcher, _ = router(x, PACKED)
    rows = dispatcher.dispatch(x, BUFFERS).tokens
    assert rows.shape == (2, 6 * 2, 3)  # E, (images and texts) * p, D
    experts = [torch.tanh, torch.sin]
    answers = torch.stack([expert(row) for expert, row in zip(experts, rows, strict=True)])
    y = dispatcher.combine(ExpertTokens(answers))
    images, texts = PACKED.split(y)
    x_images, x_texts = PACKED.split(x)
    for i in range(3):
        torch.testing.assert_close(images[i], by_hand(x_images[i], router, experts))
        if MASK[i].any():
            torch.testing.assert_close(texts[i][MASK[i]], by_hand(x_texts[i][MASK[i]], router, experts))
        assert not texts[i][~MASK[i]].any()


def test_nothing_passes_from_one_sequence_to_another() -> None:
    """Neither between pairs nor from an image to its text: that would give the contrastive answer away."""
    layer = MoE(3, hidden_dim=8, num_experts=2, router=lambda dim, num_experts: soft())
    x = torch.randn(27, 3, requires_grad=True)
    images, texts = PACKED.split(layer(x, PACKED)[0])
    for part, start, length in ((images[1], 5, 5), (texts[1], 15 + 4, 4)):
        (gradient,) = torch.autograd.grad(part.sum(), x, retain_graph=True)
        inside = torch.zeros(27, dtype=torch.bool)
        inside[start : start + length] = True
        assert gradient[inside].any() and not gradient[~inside].any()


def test_gates_are_the_shares_of_the_experts() -> None:
    dispatcher, routed = soft()(torch.randn(27, 3), PACKED)
    shares = dispatcher.combine_weights.view(27, 2, 2).sum(-1)
    torch.testing.assert_close(routed.gates[PACKED.valid], shares[PACKED.valid])
    assert torch.equal(routed.expert_index[:, 0], routed.gates.argmax(-1))
    assert torch.equal(routed.kept[:, 0], PACKED.valid) and routed.capacity == 2
    assert modality_statistics(routed, TEXT).success_rate == 1


def test_losses_have_gradients() -> None:
    router = soft()
    routed = decide(router, torch.randn(27, 3), PACKED)
    for term in (Importance(), ZLoss(), LocalEntropy(modality="text"), GlobalEntropy(modality="image")):
        (gradient,) = torch.autograd.grad(term(routed), router.weight, retain_graph=True)
        assert gradient.isfinite().all() and gradient.any()


def test_noise_is_absolute_and_of_training(monkeypatch: pytest.MonkeyPatch) -> None:
    router, packed, x = soft(noise_std=0.5), packed_groups(groups=1, length=2), torch.randn(2, 3)
    clean = decide(router.eval(), x, packed)
    assert torch.equal(clean.logits, clean.noisy_logits)
    monkeypatch.setattr(torch, "randn_like", torch.ones_like)  # every slot 0.5 higher, so every expert too
    noisy = decide(router.train(), x, packed)
    torch.testing.assert_close(noisy.noisy_logits, clean.logits + 0.5)
    torch.testing.assert_close(noisy.logits, clean.logits)


def test_bfloat16_data_keep_float32_weights() -> None:
    layer = MoE(3, hidden_dim=8, num_experts=2, router=lambda dim, num_experts: soft())
    x = torch.randn(27, 3)
    expected, _ = layer(x, PACKED)
    with torch.autocast("cpu", torch.bfloat16):
        y, routed = layer(x, PACKED)
    assert routed.gates.dtype == torch.float32 and y.dtype == torch.float32
    torch.testing.assert_close(y, expected, rtol=0.05, atol=0.02)


@pytest.mark.parametrize(("key", "value"), [("slots_per_expert", 0), ("noise_std", -1.0)])
def test_bad_settings_name_key_and_value(key: str, value: float) -> None:
    with pytest.raises(ArgumentError, match=rf"{key} must be .* got {value}"):
        soft(**{key: value})
