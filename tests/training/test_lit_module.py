"""One training step, and a whole small training by Lightning's Trainer."""

from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from limoe.losses.auxiliary.base import AuxLossSet
from limoe.losses.contrastive import SigmoidContrastive
from limoe.nn import StepUpdated
from limoe.training.optim import adafactor, adamw, lion
from limoe.training.schedules import warmup_stable_decay
from tests.helpers.builders import Batches, quiet_trainer, tiny_batch, tiny_model
from tests.helpers.training import CONFIG, NoContrast, aux_losses, fit, module


@pytest.mark.parametrize(("weight", "moves"), [(0.04, True), (0.0, False)])
def test_the_auxiliary_weight_alone_moves_the_router(tmp_path: Path, weight: float, moves: bool) -> None:
    """A trainer that logs the auxiliary losses but never adds them passes every other test."""
    lit = module(
        contrastive=NoContrast(),
        aux_losses=aux_losses(weight=weight),
        optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
    )
    router = lit.model.tower.blocks[1].mlp.router.weight
    before = router.detach().clone()
    fit(lit, tmp_path, steps=1)
    assert torch.equal(router, before) != moves


def test_loss_is_contrastive_plus_weighted_mean_of_the_raw_losses(tmp_path: Path) -> None:
    trainer = fit(module(), tmp_path, steps=1)
    logged = {key: value.item() for key, value in trainer.logged_metrics.items()}
    raw = [value for key, value in logged.items() if key.startswith("train/aux/")]
    assert len(raw) == 5
    assert logged["train/aux_total"] == pytest.approx(0.04 * sum(raw) / 5)
    assert logged["train/loss"] == pytest.approx(logged["train/contrastive"] + logged["train/aux_total"])
    assert logged["train/logit_scale"] == pytest.approx(10)
    assert "val/loss" in trainer.callback_metrics


def test_a_dense_model_logs_no_auxiliary_loss(tmp_path: Path) -> None:
    trainer = fit(module(model=tiny_model(moe_layers=()), aux_losses=AuxLossSet({})), tmp_path, steps=1)
    assert not [key for key in trainer.logged_metrics if "aux" in key]
    assert trainer.logged_metrics["train/loss"] == trainer.logged_metrics["train/contrastive"]


def test_a_dense_model_with_auxiliary_losses_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="auxiliary losses need sparse layers"):
        fit(module(model=tiny_model(moe_layers=())), tmp_path, steps=1)


def test_learning_rate_follows_the_schedule_per_step(tmp_path: Path) -> None:
    rates: list[float] = []

    class Record(L.Callback):
        def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
            rates.append(optimizer.param_groups[0]["lr"])

    schedule = warmup_stable_decay(total_steps=6, warmup=2, cooldown=2)
    fit(module(scheduler=schedule), tmp_path, steps=6, callbacks=[Record()])
    assert rates == pytest.approx([0, 0.5e-3, 1e-3, 1e-3, 1e-3, 0.5e-3])


class Steps(StepUpdated):
    def __init__(self) -> None:
        super().__init__()
        self.steps = 0

    def after_step(self) -> None:
        self.steps += 1


class SameName(nn.Module):
    def after_step(self) -> None:
        raise AssertionError("not called for")


@pytest.mark.parametrize("accumulated", [1, 2])
def test_state_moves_once_per_optimizer_step(tmp_path: Path, accumulated: int) -> None:
    """Of modules that say so by their class, and not of those with a method of that name."""
    lit = module()
    lit.model.tower.blocks[0].extra = nn.ModuleList([Steps(), SameName()])
    fit(lit, tmp_path, steps=3, accumulate_grad_batches=accumulated)
    assert lit.model.tower.blocks[0].extra[0].steps == 3


def test_checkpoint_loads_with_weights_only_and_restores_the_model(tmp_path: Path) -> None:
    lit = module()
    fit(lit, tmp_path).save_checkpoint(tmp_path / "last.ckpt")
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert checkpoint["hyper_parameters"] == CONFIG and checkpoint["global_step"] == 3
    restored, batch = module(), tiny_batch(seed=5)
    restored.load_state_dict(checkpoint["state_dict"])
    for a, b in zip(
        restored.eval().model.encode_text(batch.text_ids, batch.text_mask),
        lit.eval().model.encode_text(batch.text_ids, batch.text_mask),
        strict=True,
    ):
        assert torch.equal(a, b)


def test_no_checkpoint_holds_a_temperature_beyond_its_clamp(tmp_path: Path) -> None:
    """Callbacks save before the module's own end-of-batch hook runs."""
    lit = module(model=tiny_model(max_logit_scale=11.0), optimizer=partial(adamw, lr=1.0))
    save = ModelCheckpoint(dirpath=tmp_path, every_n_train_steps=1, save_top_k=-1)
    fit(lit, tmp_path, steps=3, callbacks=[save], enable_checkpointing=True)
    saved = [torch.load(path, weights_only=True)["state_dict"]["model.logit_scale"] for path in tmp_path.glob("*.ckpt")]
    assert len(saved) == 3
    assert max(value.exp().item() for value in saved) <= 11.0001


@pytest.mark.parametrize(
    ("interval", "accumulate", "validated"),
    [(2, 1, [2, 4, 5]), (5, 1, [5]), (9, 1, [5]), (4, 2, [2, 4, 5])],  # the interval counts batches
)
def test_the_last_weights_are_validated_once_and_saved(
    tmp_path: Path, interval: int, accumulate: int, validated: list[int]
) -> None:
    seen: list[int] = []

    class Look(L.Callback):
        def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            seen.append(trainer.global_step)

    save = ModelCheckpoint(dirpath=tmp_path, save_on_train_epoch_end=False, filename="newest")
    settings: dict[str, Any] = {
        "val_check_interval": interval,
        "accumulate_grad_batches": accumulate,
        "num_sanity_val_steps": 0,
    }
    settings |= {"check_val_every_n_epoch": None, "enable_checkpointing": True, "limit_val_batches": 1}
    trainer = fit(module(), tmp_path, steps=5, callbacks=[Look(), save], **settings)
    assert seen == validated
    assert torch.load(tmp_path / "newest.ckpt", weights_only=True)["global_step"] == 5
    assert "val/loss" in trainer.callback_metrics


@pytest.mark.parametrize("optimizer", [adamw, adafactor, lion])
def test_the_bias_of_the_sigmoid_loss_is_trained_saved_and_not_decayed(tmp_path: Path, optimizer: Any) -> None:
    """A decay of 0.1 / lr per step would take the bias from -10 to -9 and lower at once."""
    lit = module(contrastive=SigmoidContrastive(), optimizer=partial(optimizer, lr=1e-3, weight_decay=100.0))
    decayed, rest = lit.configure_optimizers()["optimizer"].param_groups
    bias = lit.contrastive.bias
    assert any(p is bias for p in rest["params"]) and not any(p is bias for p in decayed["params"])
    trainer = fit(lit, tmp_path)
    assert 0 < abs(bias.item() + 10) < 0.01
    assert trainer.logged_metrics["train/contrastive_bias"] == pytest.approx(-10, abs=0.01)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(state["contrastive.bias"], bias)
    assert len({name for name in state if not name.startswith("model.")}) == 1


@pytest.mark.parametrize("optimizer", [adamw, adafactor, lion])
def test_bfloat16_with_routers_and_losses_in_float32(tmp_path: Path, optimizer: Any) -> None:
    seen: list[torch.dtype] = []

    class Look(L.Callback):
        def on_train_batch_end(
            self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: Any
        ) -> None:
            routed = outputs["output"].routing[1]
            seen.extend([outputs["loss"].dtype, routed.logits.dtype, routed.gates.dtype, routed.log_probs.dtype])

    lit = module(optimizer=partial(optimizer, lr=1e-3))
    lit.model.tower.blocks[1].attn.proj.register_forward_hook(lambda m, i, out: dense.append(out.dtype))
    dense: list[torch.dtype] = []
    before = {name: p.detach().clone() for name, p in lit.model.named_parameters()}
    fit(lit, tmp_path, steps=3, precision="bf16-mixed", callbacks=[Look()], gradient_clip_val=1.0)
    assert set(seen) == {torch.float32} and set(dense) == {torch.bfloat16}
    for name, parameter in lit.model.named_parameters():
        assert parameter.dtype == torch.float32 and parameter.isfinite().all(), name
    assert not torch.equal(before["tower.blocks.1.mlp.router.weight"], lit.model.tower.blocks[1].mlp.router.weight)


def test_eight_pairs_can_be_learned_by_heart(tmp_path: Path) -> None:
    """Chance is ln 8 = 2.08."""
    lit = module(model=tiny_model(width=32, mlp_dim=64), optimizer=partial(adamw, lr=3e-3, weight_decay=0.0))
    batch = tiny_batch(pairs=8)
    trainer = quiet_trainer(tmp_path, max_steps=100, limit_val_batches=0)
    trainer.fit(lit, train_dataloaders=Batches([batch] * 100), val_dataloaders=Batches([batch]))
    assert trainer.logged_metrics["train/contrastive"] < 0.1
    output = lit.eval().model(batch.images, batch.text_ids, batch.text_mask)
    assert (output.image_features @ output.text_features.T).argmax(1).tolist() == list(range(8))
