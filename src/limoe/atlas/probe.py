"""Features of samples of one modality with all experts, and with one expert silent."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from limoe.atlas.collect import SparseLayer, Tokens
from limoe.models.experts import Experts
from limoe.types import PackedTokens, RouterOutput

_SEED = 0  # of routers that draw: each encoding sees the same draws


@contextmanager
def silenced(experts: Experts, expert: int) -> Iterator[None]:
    """Inside, this expert gives zero for every token; the others and all gates are as they were."""
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
    """The images or the prompts of a task. `encode` maps rows of `inputs` to features, with a model of `layers`.

    Where tokens choose by themselves, a sample none of whose tokens is at the silenced expert keeps its features; only
    the others are encoded again.
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
        self._encode, self._inputs, self._batch_size = encode, inputs, batch_size
        visits: dict[int, list[Tensor]] = {layer.number: [] for layer in layers}
        with ExitStack() as hooks:
            for layer in layers:
                hook = partial(_note_visits, visits[layer.number], modality)
                hooks.callback(layer.moe.register_forward_hook(hook).remove)
            self.features = self._features(torch.arange(len(inputs[0])))
        # by layer the tokens of each sample at each expert, last its real tokens; none where none of them come by
        self._visits = {layer: torch.cat(parts) for layer, parts in visits.items() if parts}

    def share(self, layer: SparseLayer, expert: int) -> float | None:
        """Of the real tokens, those that the expert computes; None where the layer sees no such tokens."""
        if layer.number not in self._visits:
            return None
        visits = self._visits[layer.number].sum(0)
        return visits[expert].item() / visits[-1].item()

    def without(self, layer: SparseLayer, expert: int) -> Float[Tensor, "n d"]:
        """Features while the expert is silent."""
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
    """A forward hook of a sparse layer: by sample, its tokens at each expert, and all its real ones."""
    packed: PackedTokens = arguments[1]
    routed: RouterOutput = result[1]
    tokens = Tokens.of(routed, modality, sequences=packed.segments[0].size)
    counts = [tokens.at(expert).sum(1) for expert in range(routed.num_experts)]
    counts.append(tokens.valid.sum(1))
    visits.append(torch.stack(counts, dim=1).cpu())
