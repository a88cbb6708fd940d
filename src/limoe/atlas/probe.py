"""Features of samples of one modality with all experts, and with one expert knocked out."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from limoe.atlas.collect import SparseLayer, Tokens
from limoe.models.experts import Experts
from limoe.types import PackedTokens, RouterOutput

_SEED = 0  # for routers that draw random numbers: the same draws in each encoding


@contextmanager
def silenced(experts: Experts, expert: int) -> Iterator[None]:
    """Set the output of this expert to zero inside the block; other experts and all gates stay."""
    weight, bias = experts.weight_out.data[expert], experts.bias_out.data[expert]
    trained = weight.clone(), bias.clone()
    try:
        weight.zero_()
        bias.zero_()
        yield
    finally:
        weight.copy_(trained[0])
        bias.copy_(trained[1])


class Probe:
    """Images or prompts of a task. `encode` maps rows of `inputs` to features, with a model that has `layers`.

    Where each token's choice is independent of the batch, only samples with a token at the silenced expert are encoded
    again; the others keep their features.
    """

    def __init__(
        self,
        encode: Callable[..., Tensor],
        inputs: Sequence[Tensor],
        *,
        modality: int,
        layers: Sequence[SparseLayer],
        batch_size: int,
    ) -> None:
        self._encode = encode
        self._inputs = inputs
        self._batch_size = batch_size
        visits: dict[int, list[Tensor]] = {layer.number: [] for layer in layers}
        with ExitStack() as hooks:
            for layer in layers:
                hook = partial(_note_visits, visits[layer.number], modality)
                hooks.callback(layer.moe.register_forward_hook(hook).remove)
            self.features = self._features(torch.arange(len(inputs[0])))
        # by layer [n, E + 1]: tokens of each sample at each expert, then its real tokens; absent where none pass
        self._visits = {layer: torch.cat(parts) for layer, parts in visits.items() if parts}

    def share(self, layer: SparseLayer, expert: int) -> float | None:
        """Share of the real tokens that the expert computes; None where none pass the layer."""
        if layer.number not in self._visits:
            return None
        visits = self._visits[layer.number].sum(0)
        return visits[expert].item() / visits[-1].item()

    def without(self, layer: SparseLayer, expert: int) -> Float[Tensor, "n d"]:
        """Features with this expert's output set to zero."""
        rows = self._touched(layer, expert)
        if len(rows) == 0:
            return self.features
        with silenced(layer.moe.experts, expert):
            return self.features.index_copy(0, rows, self._features(rows))

    def _touched(self, layer: SparseLayer, expert: int) -> Int[Tensor, "touched"]:
        if layer.number not in self._visits:
            return torch.arange(0)
        if not layer.router.tokens_choose or layer.router.depends_on_batch:
            return torch.arange(len(self.features))
        return self._visits[layer.number][:, expert].nonzero().flatten()

    def _features(self, rows: Int[Tensor, "n"]) -> Float[Tensor, "n d"]:
        parts = []
        with torch.random.fork_rng():
            torch.manual_seed(_SEED)
            for part in rows.split(self._batch_size):
                parts.append(self._encode(*(values[part] for values in self._inputs)).float().cpu())
        return torch.cat(parts)


def _note_visits(visits: list[Tensor], modality: int, module: nn.Module, arguments: tuple, result: tuple) -> None:
    """Forward hook of a sparse layer: append [B, E + 1], tokens of each sample at each expert, then its real ones."""
    packed: PackedTokens = arguments[1]
    routed: RouterOutput = result[1]
    tokens = Tokens.of(routed, modality, sequences=packed.segments[0].size)
    counts = [tokens.at(expert).sum(1) for expert in range(routed.num_experts)]
    counts.append(tokens.valid.sum(1))
    visits.append(torch.stack(counts, dim=1).cpu())
