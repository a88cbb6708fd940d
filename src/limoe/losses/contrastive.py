"""Contrastive losses over the pairs of all ranks, in at least float32."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from limoe.errors import require_argument
from limoe.nn import recomputed
from limoe.parallel.collectives import all_gather, rank

RowsLoss = Callable[..., Float[Tensor, ""]]


class ContrastiveLoss(nn.Module, ABC):
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
        dtype = torch.promote_types(image_features.dtype, torch.float32)
        image = image_features.to(dtype)
        text = text_features.to(dtype)
        with torch.autocast(image_features.device.type, enabled=False):
            return self.mean_loss(image, text, logit_scale)

    @abstractmethod
    def mean_loss(
        self, image: Float[Tensor, "B d_out"], text: Float[Tensor, "B d_out"], logit_scale: Float[Tensor, ""]
    ) -> Float[Tensor, ""]:
        """The loss of this rank. Features are at least float32, and autocast is off."""

    def mean_over_rows(
        self, loss: RowsLoss, rows: Float[Tensor, "B d_out"], columns: Float[Tensor, "B d_out"]
    ) -> Float[Tensor, ""]:
        """Mean over this rank's rows of a loss that sums over rows.

        Args:
            loss: called with (rows [b, d_out], columns of all ranks [B * ranks, d_out], labels [b]); `labels[i]` is the
                column of the pair that row i belongs to. With `chunk_size` it gets that many rows at a time.
            rows: features of one modality on this rank.
            columns: features of the other modality on this rank.
        """
        all_columns = all_gather(columns)
        first = rank() * len(rows)
        labels = torch.arange(len(rows), device=rows.device) + first
        if self.chunk_size is None or self.chunk_size >= len(rows):
            return loss(rows, all_columns, labels) / len(rows)
        sums = []
        for some_rows, some_labels in zip(rows.split(self.chunk_size), labels.split(self.chunk_size), strict=True):
            sums.append(recomputed(loss, some_rows, all_columns, some_labels))
        return torch.stack(sums).sum() / len(rows)


class SoftmaxContrastive(ContrastiveLoss):
    """InfoNCE in both directions, half each; negatives are all other pairs of the global batch."""

    def mean_loss(
        self, image: Float[Tensor, "B d_out"], text: Float[Tensor, "B d_out"], logit_scale: Float[Tensor, ""]
    ) -> Float[Tensor, ""]:
        def loss(rows: Tensor, columns: Tensor, labels: Tensor) -> Tensor:
            logits = logit_scale * rows @ columns.T  # b, BW
            return F.cross_entropy(logits, labels, reduction="sum")

        image_to_text = self.mean_over_rows(loss, image, text)
        text_to_image = self.mean_over_rows(loss, text, image)
        return 0.5 * (image_to_text + text_to_image)


class SigmoidContrastive(ContrastiveLoss):
    """SigLIP (arXiv 2303.15343): a binary loss on every image-text combination of the global batch.

    -ln sigmoid(z (t cos + b)) with z = 1 for positives and -1 for negatives, summed over texts, mean over images. t is
    the model's logit scale (`model.init_logit_scale: 10` as in the paper), b is learned here and not decayed.

    Args:
        init_bias: b at the start; -10 starts every combination as a negative, as nearly all are.
        chunk_size: see `ContrastiveLoss`.
    """

    def __init__(self, *, init_bias: float = -10.0, chunk_size: int | None = None) -> None:
        super().__init__(chunk_size=chunk_size)
        self.bias = nn.Parameter(torch.tensor(float(init_bias)))

    def mean_loss(
        self, image: Float[Tensor, "B d_out"], text: Float[Tensor, "B d_out"], logit_scale: Float[Tensor, ""]
    ) -> Float[Tensor, ""]:
        def loss(rows: Tensor, columns: Tensor, labels: Tensor) -> Tensor:
            logits = logit_scale * rows @ columns.T  # b, BW
            logits = logits + self.bias.to(rows.dtype)

            # 1 for positives, -1 for negatives
            sign = torch.full_like(logits, -1)
            sign = sign.scatter_(1, labels[:, None], 1.0)
            return -F.logsigmoid(sign * logits).sum()

        return self.mean_over_rows(loss, image, text)
