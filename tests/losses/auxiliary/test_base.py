"""The set of auxiliary losses: weights, reductions, absolute weights, boosts, statistics over two processes."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from limoe.losses.auxiliary.base import AuxLoss, AuxLossSet
from limoe.losses.auxiliary.classic import Balance, Importance, Load, ZLoss
from limoe.losses.auxiliary.entropy import GlobalEntropy, LocalEntropy, MutualInformation
from limoe.types import RouterOutput
from tests.helpers.builders import router_output
from tests.helpers.ranks import SECONDS, mean_over_ranks, run_two


class Constant(AuxLoss):
    """A loss that says how often it was asked."""

    def __init__(self, value: float, **weights: float) -> None:
        super().__init__(**weights)
        self.value = value

    def __call__(self, routed: RouterOutput) -> Tensor:
        return routed.logits.sum() * 0 + self.value * routed.logits.shape[0]


ROUTING = {1: router_output(torch.zeros(1, 2)), 3: router_output(torch.zeros(3, 2))}  # values count 1 and 3 times


def test_total_is_the_mean_over_active_terms_and_layers_times_the_weight() -> None:
    """Layer means 2v: 2, 20, weight 0: 200. Mean over the two active of (1 * 2, 0.5 * 20) = 6, times 0.04."""
    terms = {"a": Constant(1), "b": Constant(10, weight=0.5), "off": Constant(100, weight=0.0)}
    total, raw, *_ = AuxLossSet(terms)(ROUTING)
    assert total.item() == pytest.approx(0.04 * (2 + 10) / 2)
    assert {name: value.item() for name, value in raw.items()} == {"a": 2, "b": 20, "off": 200}


def test_weight_zero_equals_leaving_out() -> None:
    with_off = AuxLossSet({"a": Constant(1), "off": Constant(100, weight=0.0)})(ROUTING)
    without = AuxLossSet({"a": Constant(1)})(ROUTING)
    assert torch.equal(with_off.total, without.total) and with_off.raw["off"].item() == 200


def test_a_loss_of_weight_zero_cannot_poison_the_total() -> None:
    total, raw, *_ = AuxLossSet({"a": Constant(1), "off": Constant(math.nan, weight=0.0)})(ROUTING)
    assert total.item() == pytest.approx(0.04 * 2) and raw["off"].isnan()


@pytest.mark.parametrize(
    ("over_losses", "over_layers", "total"),
    [("mean", "mean", 0.04 * 11), ("sum", "mean", 0.04 * 22), ("mean", "sum", 0.04 * 22), ("sum", "sum", 0.04 * 44)],
)
def test_reductions(over_losses: str, over_layers: str, total: float) -> None:
    """Terms 1 and 10: layer means 2 and 20, sums 4 and 40."""
    losses = AuxLossSet({"a": Constant(1), "b": Constant(10)}, over_losses=over_losses, over_layers=over_layers)
    assert losses(ROUTING).total.item() == pytest.approx(total)


def test_a_factor_scales_one_term_and_not_the_number_averaged_over() -> None:
    losses = AuxLossSet({"a": Constant(1), "b": Constant(10)}, weight=1.0)
    for factor, total in ((1.0, 11), (0.5, 6), (0.0, 1)):  # (2 + 20 * factor) / 2
        losses.set_factor("b", factor)
        found, raw, *_ = losses(ROUTING)
        assert found.item() == pytest.approx(total) and raw["b"].item() == 20


def test_an_unknown_factor_lists_what_is_active() -> None:
    with pytest.raises(ValueError, match=r"the auxiliary loss zz is scheduled but not active; active losses: a, b"):
        AuxLossSet({"a": Constant(1), "b": Constant(1)}).set_factor("zz", 0.5)


def test_nothing_active_is_zero() -> None:
    assert AuxLossSet({})({}).total == 0 and AuxLossSet({})(ROUTING).raw == {}
    total, raw, *_ = AuxLossSet({"off": Constant(1, weight=0.0)})(ROUTING)
    assert total == 0 and raw["off"].item() == 2


def test_losses_on_a_dense_model_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"auxiliary losses need sparse layers"):
        AuxLossSet({"a": Constant(1)})({})


# ---------------------------------------------------------------- absolute weights, boosts, what is logged


def test_an_absolute_weight_stays_outside_of_the_mean() -> None:
    """Layer means 2 and 20: 0.04 * 2 from the only averaged term, plus 0.01 * 20; the weight of b does not count."""
    losses = AuxLossSet({"a": Constant(1), "b": Constant(10, weight=0.0, absolute_weight=0.01)})
    found = losses(ROUTING)
    assert {name: value.item() for name, value in found.weighted.items()} == pytest.approx({"a": 0.08, "b": 0.2})
    assert found.total.item() == pytest.approx(0.28)


def test_an_absolute_weight_sums_over_layers_where_the_set_does() -> None:
    """As in the code of Switch: 0.01 for each layer, (10 + 30) * 0.01."""
    losses = AuxLossSet({"b": Constant(10, absolute_weight=0.01)}, over_layers="sum")
    assert losses(ROUTING).total.item() == pytest.approx(0.4)


def test_an_absolute_weight_of_zero_is_inactive() -> None:
    losses = AuxLossSet({"b": Constant(math.nan, absolute_weight=0.0)})
    assert losses(ROUTING).total == 0 and not losses.is_active("b") and not losses.is_active("gone")


def test_weighted_losses_sum_to_the_total_and_carry_the_gradient() -> None:
    logits = torch.randn(6, 4, requires_grad=True)
    routed = router_output(logits, modality=torch.arange(6) % 2)
    losses = AuxLossSet({"z": ZLoss(), "off": Importance(weight=0.0), "switch": Balance(absolute_weight=0.01)})
    found = losses({0: routed})
    assert set(found.raw) == {"z", "off", "switch"} and set(found.weighted) == {"z", "switch"}
    torch.testing.assert_close(found.total, found.weighted["z"] + found.weighted["switch"])
    assert all(value.requires_grad for value in found.weighted.values())
    assert set(found.normalised) == {"off", "switch"}
    assert not any(value.requires_grad for value in found.normalised.values())


def test_normalised_values_are_means_over_layers_even_where_losses_are_summed() -> None:
    """One layer balanced (1), one collapsed on one of 4 experts (4): 2.5."""
    even, one = torch.zeros(4, 4), torch.zeros(4, 4)
    one[:, 2] = 100.0
    even.fill_diagonal_(100.0)
    found = AuxLossSet({"b": Balance()}, over_layers="sum")({0: router_output(even), 1: router_output(one)})
    assert found.normalised["b"].item() == pytest.approx(2.5) and found.raw["b"].item() == pytest.approx(5)


def test_boost_and_factor_multiply() -> None:
    losses = AuxLossSet({"a": Constant(1), "b": Constant(10, absolute_weight=1.0)}, weight=1.0)
    losses.boost.update(a=4.0, b=3.0)
    losses.set_factor("a", 0.25)
    weighted = losses(ROUTING).weighted
    assert {name: value.item() for name, value in weighted.items()} == pytest.approx({"a": 2, "b": 60})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight": -0.1}, r"^weight must be a number >= 0"),
        ({"over_losses": "max"}, r"^over_losses must be 'mean' or 'sum', got 'max'"),
        ({"over_layers": "max"}, r"^over_layers must be 'mean' or 'sum', got 'max'"),
        ({"stats_sync": "all"}, r"^stats_sync must be 'local' or 'global', got 'all'"),
    ],
)
def test_bad_settings(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AuxLossSet({}, **settings)


# ---------------------------------------------------------------- two processes

TOKENS, EXPERTS = 14, 4
MINE = (slice(0, 9), slice(9, None))  # unequal shares: a mean of means would show


def terms() -> dict[str, AuxLoss]:
    return {
        "importance": Importance(),
        "importance_text": Importance(modality="text"),
        "load": Load(),
        "z": ZLoss(),
        "local_text": LocalEntropy(modality="text"),
        "global_text": GlobalEntropy(modality="text", min_experts=4),
        "global_image": GlobalEntropy(modality="image"),
        "mutual_information": MutualInformation(),
        "switch": Balance(absolute_weight=0.01),
    }


def losses_and_gradients(mine: slice, *, stats_sync: str) -> dict[str, Tensor]:
    """Of a router shared by both ranks, on this rank's tokens, whose inputs also want gradients."""
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(TOKENS, 3, generator=generator, dtype=torch.float64)
    weight = torch.randn(3, EXPERTS, generator=generator, dtype=torch.float64, requires_grad=True)
    noise = torch.randn(TOKENS, EXPERTS, generator=generator, dtype=torch.float64) / EXPERTS
    modality, valid = torch.arange(TOKENS) % 2, torch.arange(TOKENS) % 5 != 3
    logits = x[mine] @ weight
    routed = router_output(
        logits, noisy_logits=logits + noise[mine], modality=modality[mine], valid=valid[mine], noise_std=1 / EXPERTS
    )
    found = AuxLossSet(terms(), stats_sync=stats_sync)({1: routed, 3: dataclasses.replace(routed)})
    gradients = {
        f"{name}/gradient": torch.autograd.grad(value, weight, retain_graph=True)[0]
        for name, value in found.weighted.items()
    }
    return {name: value.detach() for name, value in found.raw.items()} | gradients


def work(number: int) -> dict[str, dict[str, Tensor]]:
    """The mean over ranks, which is what DDP applies."""
    return {
        sync: {k: mean_over_ranks(v) for k, v in losses_and_gradients(MINE[number], stats_sync=sync).items()}
        for sync in ("global", "local")
    }


@pytest.mark.timeout(SECONDS + 20)
def test_two_processes_with_global_statistics_equal_one(tmp_path_factory: pytest.TempPathFactory) -> None:
    found = run_two(work, tmp_path_factory.mktemp("ranks"))
    expected = losses_and_gradients(slice(None), stats_sync="global")
    for key, value in expected.items():
        torch.testing.assert_close(found["global"][key], value, rtol=1e-10, atol=1e-13, msg=key)
        assert value.any()
        assert not torch.allclose(found["local"][key], value, rtol=1e-3), key  # what the option is for
