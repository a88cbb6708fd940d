"""Features of samples of one modality with all experts, and with one expert silent."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from limoe.atlas.collect import SparseLayer, Tokens
from limoe.models.moe import Experts
from limoe.routing.token_choice import TokenChoiceRouter

_SEED = 0  # of routers that draw: each encoding sees the same draws


@contextmanager
def silenced(experts: Experts, expert: int) -> Iterator[None]:
    """Inside, this expert gives zero for every token; the others and all gates are as they were."""
    last = (experts.weight_out.data[expert], experts.bias_out.data[expert])
    trained = [values.clone() for values in last]
    try:
        for values in last:
            values.zero_()
        yield
    finally:
        for values, before in zip(last, trained, strict=True):
            values.copy_(before)


class Probe:
    """The pictures or the prompts of a task. `encode` maps rows of `inputs` to features, with a model of `layers`.

    Where tokens choose by themselves, a sample none of whose tokens sits at the silent expert keeps its features; only
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
        self._visits: dict[int, list[Int[Tensor, "B E"]]] = {}  # tokens of each sample at each expert
        self._tokens: dict[int, int] = {}
        with ExitStack() as hooks:
            for layer in layers:
                hooks.callback(layer.moe.register_forward_hook(self._record(layer, modality)).remove)
            self.features = self._features(torch.arange(len(inputs[0])))

    def share(self, layer: SparseLayer, expert: int) -> float | None:
        """Of the real tokens, those that the expert computes; None where the layer sees no such tokens."""
        if layer.number not in self._visits:
            return None
        return sum(int(part[:, expert].sum()) for part in self._visits[layer.number]) / self._tokens[layer.number]

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
        router = layer.moe.router
        if not isinstance(router, TokenChoiceRouter) or router.depends_on_batch:
            return torch.arange(len(self.features))
        return torch.cat(self._visits[layer.number])[:, expert].nonzero().flatten()

    def _features(self, rows: Int[Tensor, "n"]) -> Float[Tensor, "n d"]:
        parts = []
        with torch.random.fork_rng():
            torch.manual_seed(_SEED)
            for part in rows.split(self._batch_size):
                parts.append(self._encode(*(values[part] for values in self._inputs)).float().cpu())
        return torch.cat(parts)

    def _record(self, layer: SparseLayer, modality: int) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: tuple, result: tuple) -> None:
            sequences = arguments[1].segments[0].size
            tokens = Tokens.of(result[1], modality, sequences=sequences)
            at = [tokens.at(expert).sum(1) for expert in range(result[1].num_experts)]
            self._visits.setdefault(layer.number, []).append(torch.stack(at, dim=1).cpu())
            self._tokens[layer.number] = self._tokens.get(layer.number, 0) + int(tokens.valid.sum())

        return hook
