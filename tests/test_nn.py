"""Initialisers against timm's; recomputed parts: the same gradients, the same random numbers, nothing counted twice."""

import pytest
import torch
from timm.layers import lecun_normal_ as timms
from torch import Tensor, nn

from limoe.losses.contrastive import SoftmaxContrastive
from limoe.nn import StepUpdated, lecun_normal_, recomputed
from limoe.types import Batch
from tests.helpers.builders import tiny_batch, tiny_model


@pytest.mark.parametrize("shape", [(64, 48), (32, 3, 4, 4)])
def test_lecun_normal_equals_timms(shape: tuple[int, ...]) -> None:
    torch.manual_seed(3)
    timms(expected := torch.empty(shape))
    torch.manual_seed(3)
    torch.testing.assert_close(lecun_normal_(torch.empty(shape)), expected, rtol=1e-6, atol=1e-7)
    # variance 1 / 48 for both shapes, and nothing beyond 2 / 0.8796 of that standard deviation
    assert expected.std().item() == pytest.approx(48**-0.5, rel=0.05)
    assert expected.abs().max() <= 2.28 * 48**-0.5


def test_it_fills_parameters_and_needs_no_values() -> None:
    assert lecun_normal_(torch.nn.Parameter(torch.empty(8, 4))).requires_grad
    assert lecun_normal_(torch.empty(8, 4, device="meta")).shape == (8, 4)


class Counter(StepUpdated):
    """Counts its calls and draws random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.counted = 0, 0
        self.linear = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.counted += self.counting
        return self.linear(x + torch.randn_like(x)).tanh()

    def after_step(self) -> None:
        """Nothing moves."""


def test_a_second_time_without_counting_and_with_the_same_random_numbers() -> None:
    counter, x = Counter(), torch.randn(4, 3)
    torch.manual_seed(1)
    counter(x).sum().backward()
    expected = counter.linear.weight.grad.clone()
    counter.zero_grad()
    torch.manual_seed(1)
    y = recomputed(counter, x)
    drawn = torch.rand(1)
    y.sum().backward()
    assert torch.equal(counter.linear.weight.grad, expected)
    assert (counter.calls, counter.counted, counter.counting) == (3, 2, True)
    torch.manual_seed(1)
    counter(x)
    assert torch.equal(drawn, torch.rand(1))  # no other random numbers change


def test_one_inside_another_and_more_than_one_backward() -> None:
    counter, x = Counter(), torch.randn(4, 3)
    outer = nn.ModuleList([counter])
    outer.forward = lambda x: recomputed(counter, x) * 2
    torch.manual_seed(1)
    y = recomputed(outer, x)
    first = torch.autograd.grad(y.sum(), counter.linear.weight, retain_graph=True)[0]
    second = torch.autograd.grad(y.sum(), counter.linear.weight)[0]
    torch.manual_seed(1)
    expected = torch.autograd.grad(2 * counter(x).sum(), counter.linear.weight)[0]
    assert torch.equal(first, second) and torch.equal(first, expected)
    assert counter.counted == 2 and counter.counting  # the first pass and the one of the expectation


def test_counting_comes_back_after_an_error() -> None:
    counter = Counter()

    class Boom(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = counter

        def forward(self, x: Tensor) -> Tensor:
            if not counter.counting:
                raise RuntimeError("boom")
            return counter(x)

    y = recomputed(Boom(), torch.randn(4, 3))
    with pytest.raises(RuntimeError, match="boom"):
        y.sum().backward()
    assert counter.counting


# ---------------------------------------------------------------- blocks of a tower


def gradients(batch: Batch, **changes: object) -> tuple[nn.Module, dict[str, Tensor]]:
    torch.manual_seed(3)
    router = {"noise_std": 4.0, "pairs_per_group": 2, "capacity_factor": 0.6, "bias_balance": {}}
    model = tiny_model(depth=3, moe_layers=(0, 2), router=router, **changes)
    torch.manual_seed(4)
    output = model(batch.images, batch.text_ids, batch.text_mask)
    loss = SoftmaxContrastive()(output.image_features, output.text_features, output.logit_scale)
    (loss + sum(routed.log_probs.square().mean() for routed in output.routing.values())).backward()
    return model, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_activation_checkpointing_changes_memory_alone() -> None:
    """With noise, dropped tokens and a balance that counts: the same bits everywhere."""
    batch = tiny_batch(pairs=4)
    plain, expected = gradients(batch)
    saving, found = gradients(batch, activation_checkpointing=True)
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)
    assert list(saving.state_dict()) == list(plain.state_dict())
    tokens = 4 * 4 + batch.text_mask.sum().item()
    for layer in (0, 2):
        counts = [model.tower.blocks[layer].mlp.router.balance.counts for model in (plain, saving)]
        assert torch.equal(*counts) and counts[1].sum() == tokens


def test_activation_checkpointing_keeps_the_inputs_of_the_blocks_alone() -> None:
    """Bytes that autograd holds outside of recomputed blocks, against a model that keeps everything."""
    held = {}
    for saving in (False, True):
        found: dict[int, int] = {}

        def pack(x: Tensor, found: dict[int, int] = found) -> Tensor:
            found[x.data_ptr()] = x.nbytes
            return x

        model, batch = tiny_model(depth=3, moe_layers=(0, 2), activation_checkpointing=saving), tiny_batch(pairs=64)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            model(batch.images, batch.text_ids, batch.text_mask)
        held[saving] = sum(found.values())
    assert held[True] < 0.25 * held[False]
