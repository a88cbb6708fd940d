"""Contrastive losses over the pairs of all ranks, in at least float32."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from limoe.errors import require_argument
from limoe.nn.recompute import recomputed
from limoe.parallel.collectives import all_gather, rank

RowsLoss = Callable[..., Float[Tensor, ""]]


class ContrastiveLoss(nn.Module):
    """A loss on the rows of the similarity matrix of all pairs. Subclasses define `mean_loss`.

    Each rank scores its own rows against the gathered columns and averages over its rows, so the mean over ranks (DDP's
    mean of gradients) is the loss of one process with the joint batch.

    Args:
        chunk_size: rows of the matrix that exist at a time; the backward computes them again. Memory is then
            chunk_size * B numbers instead of a few times B^2. None = all rows at once.
    """

    def __init__(self, *, chunk_size: int | None = None) -> None:
        super().__init__()
        require_argument(chunk_size is None or chunk_size >= 1, "chunk_size", ">= 1 or null", chunk_size)
        self.chunk_size = chunk_size

    def forward(
        self,
        image_features: Float[Tensor, "B d_out"],
        text_features: Float[Tensor, "B d_out"],
        logit_scale: Float[Tensor, ""],
    ) -> Float[Tensor, ""]:
        with torch.autocast(image_features.device.type, enabled=False):
            dtype = torch.promote_types(image_features.dtype, torch.float32)
            return self.mean_loss(image_features.to(dtype), text_features.to(dtype), logit_scale)

    def mean_loss(
        self, image: Float[Tensor, "B d_out"], text: Float[Tensor, "B d_out"], logit_scale: Float[Tensor, ""]
    ) -> Float[Tensor, ""]:
        raise NotImplementedError

    def mean_over_rows(
        self, loss: RowsLoss, rows: Float[Tensor, "B d_out"], columns: Float[Tensor, "B d_out"]
    ) -> Float[Tensor, ""]:
        """Mean over this rank's rows of `loss(rows, all columns, column of each row's partner)`, a sum."""
        everybody = all_gather(columns)
        partner = torch.arange(len(rows), device=rows.device) + rank() * len(rows)
        if self.chunk_size is None or self.chunk_size >= len(rows):
            return loss(rows, everybody, partner) / len(rows)
        chunks = zip(rows.split(self.chunk_size), partner.split(self.chunk_size), strict=True)
        return torch.stack([recomputed(loss, r, everybody, p) for r, p in chunks]).sum() / len(rows)


class SoftmaxContrastive(ContrastiveLoss):
    """InfoNCE in both directions, half each; negatives are all other pairs of the global batch."""

    def mean_loss(
        self, image: Float[Tensor, "B d_out"], text: Float[Tensor, "B d_out"], logit_scale: Float[Tensor, ""]
    ) -> Float[Tensor, ""]:
        def loss(
            rows: Float[Tensor, "b d_out"], columns: Float[Tensor, "BW d_out"], partner: Int[Tensor, "b"]
        ) -> Tensor:
            return F.cross_entropy(logit_scale * rows @ columns.T, partner, reduction="sum")

        image_to_text = self.mean_over_rows(loss, image, text)
        return 0.5 * (image_to_text + self.mean_over_rows(loss, text, image))


class SigmoidContrastive(ContrastiveLoss):
    """SigLIP (arXiv 2303.15343): every pair of the global batch is a yes-or-no question of its own.

    -ln sigmoid(z (t cos + b)) with z = 1 for partners and -1 otherwise, summed over texts, mean over images. t is the
    model's temperature factor (`model.init_logit_scale: 10` as in the paper), b is learned here and not decayed.

    Args:
        init_bias: b at the start; -10 says no to everybody, as nearly all pairs deserve.
        chunk_size: see `ContrastiveLoss`.
    """

    def __init__(self, *, init_bias: float = -10.0, chunk_size: int | None = None) -> None:
        super().__init__(chunk_size=chunk_size)
        self.bias = nn.Parameter(torch.tensor(float(init_bias)))

    def mean_loss(
        self, image: Float[Tensor, "B d_out"], text: Float[Tensor, "B d_out"], logit_scale: Float[Tensor, ""]
    ) -> Float[Tensor, ""]:
        def loss(
            rows: Float[Tensor, "b d_out"], columns: Float[Tensor, "BW d_out"], partner: Int[Tensor, "b"]
        ) -> Tensor:
            logits = logit_scale * rows @ columns.T + self.bias.to(rows.dtype)
            answer = torch.full_like(logits, -1).scatter_(1, partner[:, None], 1.0)
            return -F.logsigmoid(answer * logits).sum()

        return self.mean_over_rows(loss, image, text)
