"""Balance by a bias that only the choice sees."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from limoe.errors import ArgumentError
from limoe.losses.auxiliary.base import AuxLossSet
from limoe.losses.contrastive import SoftmaxContrastive
from limoe.routing import bias_balance
from limoe.routing.bias_balance import BiasBalance
from limoe.training.lit_module import LIMoEModule
from limoe.training.optim import adamw
from limoe.types import IMAGE, TEXT
from tests.helpers.builders import (
    Batches,
    decide,
    packed_groups,
    packed_pairs,
    quiet_trainer,
    tiny_batch,
    tiny_model,
    top_k_router,
)


def counted(balance: BiasBalance, experts: list[int], modality: list[int] | None = None) -> BiasBalance:
    """After one batch in which token i chose experts[i]."""
    modality = [IMAGE] * len(experts) if modality is None else modality
    valid = torch.ones(len(experts), dtype=torch.bool)
    balance.count(torch.tensor(experts)[:, None], modality=torch.tensor(modality), valid=valid)
    return balance


def test_sign_rule() -> None:
    """Counts (6, 2, 0, 0), mean 2: the first expert goes down, the second stays, the others go up."""
    balance = counted(BiasBalance(4, rate=0.5), [0] * 6 + [1] * 2)
    assert balance.counts.tolist() == [[6, 2, 0, 0]]
    balance.after_step()
    assert balance.bias.tolist() == [[-0.5, 0.0, 0.5, 0.5]]
    assert not balance.counts.any()
    counted(balance, [0] * 6 + [1] * 2).after_step()
    assert balance.bias.tolist() == [[-1.0, 0.0, 1.0, 1.0]]


def test_z_score_rule() -> None:
    """Counts (6, 2, 0, 0): variance (16 + 0 + 4 + 4) / 4 = 6, so the steps are (4, 0, -2, -2) / sqrt(6)."""
    balance = counted(BiasBalance(4, rule="z_score", rate=0.1), [0] * 6 + [1] * 2)
    balance.after_step()
    expected = -0.1 * torch.tensor([[4.0, 0.0, -2.0, -2.0]]) / 6**0.5
    torch.testing.assert_close(balance.bias, expected)


@pytest.mark.parametrize("rule", ["sign", "z_score"])
def test_balance_and_silence_move_nothing(rule: str) -> None:
    balance = BiasBalance(4, rule=rule)
    balance.after_step()  # nothing counted
    counted(balance, [0, 1, 2, 3]).after_step()
    assert not balance.bias.any()


@pytest.mark.parametrize("rule", ["sign", "z_score"])
def test_counting_everything_twice_changes_nothing(rule: str) -> None:
    """What recomputing activations does."""
    once, twice = (BiasBalance(4, rule=rule) for _ in range(2))
    counted(once, [0, 0, 0, 1, 2]).after_step()
    counted(counted(twice, [0, 0, 0, 1, 2]), [0, 0, 0, 1, 2]).after_step()
    assert torch.equal(once.bias, twice.bias) and once.bias.any()


def test_one_bias_per_modality() -> None:
    """Together the load is even; each modality by itself is not."""
    experts, modality = [0, 0, 1, 1], [IMAGE, IMAGE, TEXT, TEXT]
    joint, apart = (counted(BiasBalance(2, rate=0.5, per_modality=m), experts, modality) for m in (False, True))
    assert apart.counts.tolist() == [[2, 0], [0, 2]]
    joint.after_step()
    apart.after_step()
    assert joint.bias.tolist() == [[0.0, 0.0]]
    assert apart.bias.tolist() == [[-0.5, 0.5], [0.5, -0.5]]
    scores = apart(torch.zeros(2, 2), torch.tensor([IMAGE, TEXT]))
    assert scores.tolist() == [[-0.5, 0.5], [0.5, -0.5]]


def test_the_bias_selects_and_the_gate_weighs() -> None:
    """Gates (1/2, 1/4, 1/8, 1/8) and bias (-1, 0, 0, 0.2): choice 3 then 1, with their own gates."""
    router = top_k_router(1, num_experts=4, k=2, noise_std=0.0, bias_balance={"rule": "sign"})
    router.weight.data = torch.tensor([[0.5], [0.25], [0.125], [0.125]]).log()
    router.balance.bias.copy_(torch.tensor([[-1.0, 0.0, 0.0, 0.2]]))
    routed = decide(router, torch.ones(3, 1), packed_groups(groups=1, length=3))
    assert routed.expert_index.tolist() == [[3, 1]] * 3
    torch.testing.assert_close(routed.gate, torch.tensor([[0.125, 0.25]]).expand(3, 2))
    torch.testing.assert_close(routed.gates[0], torch.tensor([0.5, 0.25, 0.125, 0.125]))


def test_training_counts_assignments_before_slots_and_without_padding() -> None:
    mask = torch.tensor([[True, True, False]])
    packed = packed_pairs(pairs=1, image_tokens=3, text_tokens=3, text_mask=mask)
    settings = {"noise_std": 0.0, "capacity_factor": 0.1, "capacity_multiple_of": 1, "bias_balance": {}}
    router = top_k_router(1, num_experts=2, **settings)
    router.weight.data = torch.tensor([[1.0], [0.0]])
    routed = decide(router, torch.ones(6, 1), packed)
    assert routed.capacity == 1 and routed.kept.sum() == 1
    assert router.balance.counts.tolist() == [[5, 0]]
    decide(router, torch.ones(6, 1), packed)
    assert router.balance.counts.tolist() == [[10, 0]]  # accumulated batches add up
    decide(router.eval(), torch.ones(6, 1), packed)
    assert router.balance.counts.tolist() == [[10, 0]]


def test_only_the_bias_is_saved() -> None:
    router = top_k_router(1, num_experts=2, bias_balance={})
    assert set(router.state_dict()) == {"weight", "balance.bias"}
    assert set(top_k_router(1, num_experts=2).state_dict()) == {"weight"}
    assert router.bfloat16().balance.counts.dtype == torch.long


def test_it_balances() -> None:
    """Fifty steps on tokens of which most want one expert; no gradient is involved."""
    router = top_k_router(4, num_experts=4, noise_std=0.0, bias_balance={"rate": 0.02})
    x, packed = torch.randn(64, 4) + 1, packed_groups(groups=1, length=64)
    router.weight.data = torch.randn(4, 4)

    def load() -> torch.Tensor:
        return torch.bincount(decide(router.eval(), x, packed).expert_index[:, 0], minlength=4) / 64

    before = load()
    for _ in range(50):
        decide(router.train(), x, packed)
        router.balance.after_step()
    assert before.max() > 0.5 and load().max() < 0.35


def lit_module(**router: Any) -> LIMoEModule:
    parts = {"contrastive": SoftmaxContrastive(), "aux_losses": AuxLossSet({})}
    model = tiny_model(router=router)
    settings = {"optimizer": partial(adamw, lr=1e-3), "scheduler": lambda step: 1.0, "config": {}}
    return LIMoEModule(model, **parts, **settings)


def test_an_optimizer_step_moves_the_bias_once(tmp_path: Path) -> None:
    """Two batches per step, three steps: after each the bias moves by the rate, up, down or not at all."""
    lit = lit_module(bias_balance={"rule": "sign", "rate": 2.0**-10})
    trainer = quiet_trainer(tmp_path, max_steps=3, accumulate_grad_batches=2)
    batches = Batches([tiny_batch(seed=i) for i in range(6)])
    trainer.fit(lit, train_dataloaders=batches, val_dataloaders=Batches([tiny_batch(seed=9)]))
    balance = lit.model.tower.blocks[1].mlp.router.balance
    steps = balance.bias * 2.0**10
    assert torch.equal(steps, steps.round()) and 1 <= steps.abs().max() <= 3
    assert not balance.counts.any()


def test_ranks_count_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts (3, 0, 1) here and (0, 2, 2) elsewhere sum to (3, 2, 3), mean 8/3; alone only expert 0 would go down."""
    elsewhere = torch.tensor([[0.0, 2.0, 2.0]])
    monkeypatch.setattr(bias_balance, "all_reduce_sum", lambda counts: counts + elsewhere)
    balance = counted(BiasBalance(3, rate=0.5), [0, 0, 0, 2])
    balance.after_step()
    assert balance.bias.tolist() == [[-0.5, 0.5, -0.5]]
    assert balance.counts.tolist() == [[0, 0, 0]]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rule": "median"}, r"bias_balance\.rule must be 'sign' or 'z_score', got 'median'"),
        ({"rate": 0}, r"bias_balance\.rate must be > 0, got 0"),
        ({"rat": 1}, r"bias_balance must be a map with keys among rule, rate, per_modality, got 'rat'"),
    ],
)
def test_bad_settings_name_key_and_value(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        top_k_router(1, num_experts=2, bias_balance=settings)
