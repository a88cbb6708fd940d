"""The training step of every model: contrastive loss plus auxiliary losses."""

from collections.abc import Callable
from typing import Any

import lightning as L
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from limoe.errors import require_argument
from limoe.losses.auxiliary.base import AuxLossSet
from limoe.losses.contrastive import ContrastiveLoss
from limoe.models.compilation import uncompiled
from limoe.nn import StepUpdated
from limoe.training.micro_batches import encode
from limoe.training.schedules import Schedule
from limoe.types import Batch, ModelOutput


class LIMoEModule(L.LightningModule):
    """Total loss = contrastive + auxiliary. It receives its parts and builds nothing.

    Args:
        model: (images, text_ids, text_mask) -> ModelOutput, with `clamp_logit_scale`.
        contrastive: loss on features; its parameters are trained and saved beside the model's.
        aux_losses: losses on the routers.
        optimizer: factory, called with this module.
        scheduler: step -> factor of the learning rate.
        config: the resolved run config as plain containers; saved as the checkpoint's hyper-parameters.
        micro_batch_size: pairs per forward pass, see `limoe.training.micro_batches`; None = the whole batch.

    Between `training_step` and the end of its backward `loss_parts` holds the summands of the loss by name, with
    gradient: "contrastive" and each active auxiliary loss with its weight.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        contrastive: ContrastiveLoss,
        aux_losses: AuxLossSet,
        optimizer: Callable[[nn.Module], Optimizer],
        scheduler: Schedule,
        config: dict[str, Any],
        micro_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        is_size = micro_batch_size is None or micro_batch_size >= 1
        require_argument(is_size, "micro_batch_size", ">= 1 or null", micro_batch_size)
        self.model: Any = model
        self.contrastive = contrastive
        self.aux_losses = aux_losses
        self._optimizer = optimizer
        self._scheduler = scheduler
        self.micro_batch_size = micro_batch_size
        self.loss_parts: dict[str, Tensor] = {}
        self.save_hyperparameters(config)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        output = encode(self.model, batch, micro_batch_size=self.micro_batch_size)
        contrastive = self._contrastive(output)
        aux = self.aux_losses(output.routing)
        loss = contrastive + aux.total.to(contrastive.device)
        self.log("train/loss", loss.detach(), prog_bar=True)
        scalars = {"train/contrastive": contrastive, "train/logit_scale": output.logit_scale}
        scalars |= {f"train/contrastive_{name}": value for name, value in self.contrastive.named_parameters()}
        for kind, values in (("", aux.raw), ("_weighted", aux.weighted), ("_normalised", aux.normalised)):
            scalars |= {f"train/aux{kind}/{name}": value for name, value in values.items()}
        if aux.raw:
            scalars["train/aux_total"] = aux.total
        self.log_dict({key: value.detach() for key, value in scalars.items()})
        self.loss_parts = {"contrastive": contrastive, **aux.weighted}
        return {"loss": loss, "output": output}

    def on_after_backward(self) -> None:
        self.loss_parts = {}

    def on_train_batch_end(self, *_: Any) -> None:
        """Stop at `max_steps`: so Lightning validates the final weights whatever `val_check_interval` is."""
        if self.trainer.global_step >= self.trainer.max_steps > 0:
            self.trainer.should_stop = True

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        with uncompiled():
            output = encode(self.model, batch, micro_batch_size=self.micro_batch_size)
        self.log("val/loss", self._contrastive(output), batch_size=len(batch.images), sync_dist=True)

    def _contrastive(self, output: ModelOutput) -> Tensor:
        return self.contrastive(output.image_features, output.text_features, output.logit_scale)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        # here, so that no checkpoint holds a value beyond the clamp
        self.model.clamp_logit_scale()
        for module in self.model.modules():
            if isinstance(module, StepUpdated):
                module.after_step()

    def configure_optimizers(self) -> Any:
        optimizer = self._optimizer(self)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": LambdaLR(optimizer, self._scheduler), "interval": "step"},
        }
