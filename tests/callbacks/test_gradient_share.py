"""Shares of the routers' gradient, by hand and in real trainings that must not notice."""

from pathlib import Path

import lightning as L
import pytest
import torch
from torch import Tensor, nn

from limoe.callbacks.gradient_share import GradientShare, gradient_shares, router_weights
from limoe.losses.auxiliary.base import AuxLossSet
from tests.helpers.builders import Batches, quiet_trainer, tiny_batch, tiny_model
from tests.helpers.training import NoContrast, aux_losses, fit, module


def test_shares_by_hand() -> None:
    """Gradients (3, 4) and (0, -5), norms 5 and 5, sum (3, -1); a constant has none."""
    w = nn.Parameter(torch.zeros(2))
    parts = {"a": w @ torch.tensor([3.0, 4]), "b": -5 * w[1], "constant": torch.tensor(7.0)}
    shares, norm = gradient_shares(parts, [w])
    assert {name: share.item() for name, share in shares.items()} == {"a": 0.5, "b": 0.5, "constant": 0.0}
    assert norm.item() == pytest.approx(10**0.5)
    assert w.grad is None


def test_no_gradient_at_all_is_zero_shares() -> None:
    w = nn.Parameter(torch.zeros(2))
    shares, norm = gradient_shares({"a": w.sum() * 0}, [w])
    assert shares["a"] == 0 and norm == 0


def test_router_weights_of_all_sparse_layers_and_nothing_else() -> None:
    model = tiny_model(moe_layers=(0, 1))
    assert {id(w) for w in router_weights(model)} == {id(block.mlp.router.weight) for block in model.tower.blocks}
    assert router_weights(tiny_model(moe_layers=())) == []


def test_shares_sum_to_one_and_the_norm_is_that_of_the_real_gradient(tmp_path: Path) -> None:
    class Norm(L.Callback):
        def on_after_backward(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            self.norm = torch.cat([w.grad.flatten() for w in router_weights(pl_module.model)]).norm().item()

    lit, norm = module(model=tiny_model(moe_layers=(0, 1))), Norm()
    trainer = fit(lit, tmp_path, steps=1, callbacks=[GradientShare(every_n_steps=1), norm])
    logged = {k.rpartition("/")[2]: v.item() for k, v in trainer.logged_metrics.items() if "grad_share" in k}
    assert set(logged) == {"contrastive", *lit.aux_losses.terms}
    assert sum(logged.values()) == pytest.approx(1, rel=1e-5) and min(logged.values()) >= 0
    assert trainer.logged_metrics["train/router_grad_norm"].item() == pytest.approx(norm.norm, rel=1e-4)
    assert lit.loss_parts == {}  # the graph is let go


def test_a_contrastive_loss_without_signal_has_no_share(tmp_path: Path) -> None:
    trainer = fit(module(contrastive=NoContrast()), tmp_path, steps=1, callbacks=[GradientShare(every_n_steps=1)])
    assert trainer.logged_metrics["train/grad_share/contrastive"] == 0


def test_training_does_not_notice(tmp_path: Path) -> None:
    """Equal to the last bit, noise of the router and accumulated gradients included."""
    found = []
    for callbacks in ([], [GradientShare(every_n_steps=1)]):
        torch.manual_seed(0)
        lit = module()
        fit(lit, tmp_path, steps=3, callbacks=callbacks, accumulate_grad_batches=2)
        found.append(lit.model.state_dict())
    assert all(torch.equal(found[0][key], value) for key, value in found[1].items())


def test_due_steps_count_optimizer_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(parts: dict[str, Tensor], weights: list[nn.Parameter]) -> tuple[dict[str, Tensor], Tensor]:
        calls.append(set(parts))
        return gradient_shares(parts, weights)

    monkeypatch.setattr("limoe.callbacks.gradient_share.gradient_shares", counted)
    fit(module(), tmp_path, steps=5, callbacks=[GradientShare(every_n_steps=2)], accumulate_grad_batches=3)
    assert len(calls) == 2  # steps 2 and 4, one of three batches each


def test_dense_models_and_bad_intervals(tmp_path: Path) -> None:
    dense = module(model=tiny_model(moe_layers=()), aux_losses=AuxLossSet({}))
    trainer = fit(dense, tmp_path, steps=1, callbacks=[GradientShare(every_n_steps=1)])
    assert not [key for key in trainer.logged_metrics if "grad" in key]
    with pytest.raises(ValueError, match=r"^every_n_steps must be >= 1, got 0"):
        GradientShare(every_n_steps=0)


def test_mixed_precision(tmp_path: Path) -> None:
    trainer = quiet_trainer(tmp_path, max_steps=1, precision="bf16-mixed", callbacks=[GradientShare(every_n_steps=1)])
    trainer.fit(module(aux_losses=aux_losses()), Batches([tiny_batch()]), Batches([tiny_batch()]))
    shares = [v.item() for k, v in trainer.logged_metrics.items() if "grad_share" in k]
    assert sum(shares) == pytest.approx(1, rel=1e-5)
