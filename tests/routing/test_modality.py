"""Routers that know the modality: a map of their own for each, or experts of their own for each."""

from typing import Any

import pytest
import torch

from limoe.errors import ArgumentError
from limoe.losses.auxiliary.classic import Importance, Load, ZLoss
from limoe.losses.auxiliary.entropy import GlobalEntropy, LocalEntropy
from limoe.routing.modality import ModalityExpertsRouter, PerModalityRouter
from limoe.routing.priority import bpr
from limoe.routing.statistics import modality_statistics
from limoe.routing.token_choice import TopKRouter
from limoe.types import IMAGE, TEXT
from tests.helpers.builders import decide, packed_pairs

PACKED = packed_pairs(pairs=2, image_tokens=3, text_tokens=2)  # 6 image tokens, then 4 text tokens
IMAGES, TEXTS = slice(0, 6), slice(6, 10)


def modality_experts(**settings: Any) -> ModalityExpertsRouter:
    defaults = {"num_experts": 8, "priority": bpr, "sizes": {"image": 5, "text": 3}}
    return ModalityExpertsRouter(3, **{**defaults, **settings})


def test_each_modality_has_its_map() -> None:
    router = PerModalityRouter(3, num_experts=4, priority=bpr, noise_std=0.0)
    x = torch.randn(10, 3)
    routed = decide(router, x, PACKED)
    torch.testing.assert_close(routed.logits[IMAGES], x[IMAGES] @ router.weight[IMAGE].T)
    torch.testing.assert_close(routed.logits[TEXTS], x[TEXTS] @ router.weight[TEXT].T)
    routed.logits[IMAGES].square().sum().backward()
    assert router.weight.grad is not None
    assert router.weight.grad[IMAGE].any() and not router.weight.grad[TEXT].any()


def test_equal_maps_are_the_joint_router() -> None:
    joint = TopKRouter(3, num_experts=4, priority=bpr, noise_std=0.0, k=2)
    apart = PerModalityRouter(3, num_experts=4, priority=bpr, noise_std=0.0, k=2)
    apart.weight.data = joint.weight.data.expand(2, -1, -1).clone()
    x = torch.randn(10, 3)
    one, two = decide(joint, x, PACKED), decide(apart, x, PACKED)
    torch.testing.assert_close(one.gates, two.gates)
    assert torch.equal(one.expert_index, two.expert_index) and torch.equal(one.kept, two.kept)


def test_maps_start_like_those_of_top_k() -> None:
    weight = PerModalityRouter(400, num_experts=64, priority=bpr).weight
    assert [w.std().item() for w in weight] == pytest.approx([400**-0.5] * 2, rel=0.02)
    assert not torch.equal(weight[0], weight[1])


def test_experts_belong_to_a_modality() -> None:
    """Images: experts 0-4. Text: experts 5-7. Gates of the others are exactly 0, the rest is a softmax of its own."""
    router = modality_experts(noise_std=0.0)
    x = torch.randn(10, 3)
    routed, free = decide(router, x, PACKED), x @ router.weight.T
    assert (routed.expert_index[IMAGES] < 5).all() and (routed.expert_index[TEXTS] >= 5).all()
    assert not routed.gates[IMAGES, 5:].any() and not routed.gates[TEXTS, :5].any()
    torch.testing.assert_close(routed.gates[IMAGES, :5], free[IMAGES, :5].softmax(-1))
    torch.testing.assert_close(routed.gates[TEXTS, 5:], free[TEXTS, 5:].softmax(-1))


def test_what_sizes_leave_over_is_shared() -> None:
    router = modality_experts(sizes={"image": 2, "text": 1}, noise_std=0.0, k=8 - 2)
    routed = decide(router, torch.randn(10, 3), PACKED)
    assert set(routed.expert_index[IMAGES].flatten().tolist()) <= {0, 1, 3, 4, 5, 6, 7}
    assert routed.expert_index[TEXTS].sort(-1).values.tolist() == [[2, 3, 4, 5, 6, 7]] * 4


def test_no_own_experts_is_top_k() -> None:
    split, joint = modality_experts(sizes={}), TopKRouter(3, num_experts=8, priority=bpr)
    joint.load_state_dict(split.state_dict())
    x = torch.randn(10, 3)
    torch.manual_seed(1)
    one = decide(split, x, PACKED)
    torch.manual_seed(1)
    torch.testing.assert_close(one.gates, decide(joint, x, PACKED).gates)


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_losses_and_statistics_on_split_experts_are_finite(scale: float) -> None:
    router = modality_experts()
    x = (torch.randn(10, 3) * scale).requires_grad_()
    routed = decide(router, x, PACKED)
    terms = [Importance(), Load(), ZLoss()]
    terms += [kind(modality=m) for kind in (LocalEntropy, GlobalEntropy) for m in ("image", "text")]
    for term in terms:
        loss = term(routed)
        assert loss.isfinite(), term
        for gradient in torch.autograd.grad(loss, [x, router.weight], retain_graph=True):
            assert gradient.isfinite().all(), term
    for modality, most in ((IMAGE, 5), (TEXT, 3)):
        found = modality_statistics(routed, modality)
        assert found.local_entropy.isfinite() and found.effective_experts <= most + 1e-4


def test_foreign_experts_stay_out_of_reach_of_the_bias() -> None:
    router = modality_experts(bias_balance={}, k=3)
    router.balance.bias.copy_(torch.tensor([[0.0] * 5 + [100.0] * 3]))
    routed = decide(router, torch.randn(10, 3), PACKED)
    assert (routed.expert_index[IMAGES] < 5).all()
    assert routed.expert_index[TEXTS].sort(-1).values.tolist() == [[5, 6, 7]] * 4


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sizes": {"image": 5, "text": 4}}, r"sizes must be at most num_experts=8 in sum"),
        ({"sizes": {"image": 8}}, r"sizes\.text must be >= k=1 \(with 0 shared experts\), got 0"),
        ({"k": 4}, r"sizes\.text must be >= k=4 .* got 3"),
        ({"sizes": {"image": -1}}, r"sizes\.image must be a whole number >= 0, got -1"),
        ({"sizes": {"audio": 1}}, r"sizes must be a map of 'image' and 'text', got 'audio'"),
    ],
)
def test_bad_sizes_name_key_and_value(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        modality_experts(**settings)
