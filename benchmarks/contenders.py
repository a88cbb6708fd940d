"""The layers that are compared. All map tokens [T, D] to [T, D] and are given the same router weight."""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from benchmarks.cases import PAIRS, Case
from limoe.losses.auxiliary.base import AuxLossSet
from limoe.losses.auxiliary.classic import Importance, Load, ZLoss
from limoe.losses.auxiliary.entropy import GlobalEntropy, LocalEntropy
from limoe.models.layers import Mlp
from limoe.models.moe import MoE
from limoe.routing.priority import bpr
from limoe.routing.token_choice import TopKRouter

CAPACITY_FACTOR = 1.05


class Contender(nn.Module):
    """A layer and how to call it. `kept` is the share of (token, choice) pairs with a slot in the last call."""

    kept: float | None = None

    def __init__(self, case: Case, layer: nn.Module) -> None:
        super().__init__()
        self.case, self.layer = case, layer.to(case.device)
        self.layer.train()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.view(1, *x.shape))[0]


class Dense(Contender):
    """The MLP with the same arithmetic: K experts at once are one MLP that is K times as wide."""

    kept = 1.0

    def __init__(self, case: Case) -> None:
        super().__init__(case, Mlp(case.width, case.k * case.hidden))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, self.case.packed)[0]


class Sparse(Contender):
    """Ours: BPR, capacity factor 1.05 (None: no limit)."""

    def __init__(
        self, case: Case, *, backend: str, factor: float | None, pairs_per_group: int | None, aux: bool
    ) -> None:
        router = partial(TopKRouter, priority=bpr, k=case.k, capacity_factor=factor, pairs_per_group=pairs_per_group)
        layer = MoE(
            case.width,
            hidden_dim=case.hidden,
            num_experts=case.num_experts,
            router=router,
            expert_init="independent",
            expert_backend=backend,
        )
        layer.router.weight.data.copy_(case.router_weight)
        super().__init__(case, layer)
        self.aux = limoe_losses() if aux else None
        self.routed = None

    def forward(self, x: Tensor) -> Tensor:
        y, self.routed = self.layer(x, self.case.packed)
        return y if self.aux is None else y + self.aux({0: self.routed}).total

    @property
    def kept(self) -> float:
        return self.routed.kept.float().mean().item()


def limoe_losses() -> AuxLossSet:
    """What `aux_loss=limoe` adds."""
    terms = {"importance": Importance(), "load": Load(), "z": ZLoss(), "local_text": LocalEntropy(modality="text")}
    for modality in ("image", "text"):
        terms[f"global_{modality}"] = GlobalEntropy(modality=modality, min_fraction=0.28)
    return AuxLossSet(terms)


def mixtral(case: Case) -> Contender:
    """transformers' Mixtral block with grouped products: no capacity. SwiGLU: three matrices, so 2/3 of the width."""
    from transformers import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

    config = MixtralConfig(
        hidden_size=case.width,
        intermediate_size=case.hidden * 2 // 3,
        num_local_experts=case.num_experts,
        num_experts_per_tok=case.k,
    )
    config._experts_implementation = "grouped_mm"
    layer = MixtralSparseMoeBlock(config)
    _fill(layer)
    layer.gate.weight.data.copy_(case.router_weight)
    return Contender(case, layer)


def switch(case: Case) -> Contender:
    """transformers' Switch layer with our capacity factor: K = 1, slots in order of the packed."""
    from transformers import SwitchTransformersConfig
    from transformers.models.switch_transformers.modeling_switch_transformers import SwitchTransformersSparseMLP

    _only(case.k == 1, "K = 1 only")
    config = SwitchTransformersConfig(
        d_model=case.width,
        d_ff=case.hidden,
        num_experts=case.num_experts,
        expert_capacity=-int(-case.num_tokens * CAPACITY_FACTOR // case.num_experts),
        dropout_rate=0.0,
        router_jitter_noise=0.0,
        dense_act_fn="gelu_new",
    )
    layer = SwitchTransformersSparseMLP(config)
    _fill(layer)
    layer.router.classifier.weight.data.copy_(case.router_weight)
    return Contender(case, layer)


class StMoE(Contender):
    """st-moe-pytorch: K >= 2, GEGLU. Its masks are [T, E, C], so slots are per pair; its factor does not know K."""

    def __init__(self, case: Case) -> None:
        from st_moe_pytorch import MoE as PeerMoE

        _only(case.k >= 2, "K >= 2 only")
        layer = PeerMoE(
            dim=case.width,
            num_experts=case.num_experts,
            gating_top_n=case.k,
            expert_hidden_mult=case.hidden / case.width,
            threshold_train=0.0,
            capacity_factor_train=CAPACITY_FACTOR * case.k,
        )
        layer.gate.to_gates.weight.data.copy_(case.router_weight)
        super().__init__(case, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.view(PAIRS, -1, x.shape[1]))[0].view_as(x)


PEERS: dict[str, Callable[[Case], Contender]] = {
    "transformers Mixtral": mixtral,
    "transformers Switch": switch,
    "st-moe-pytorch": StMoE,
}


class Unavailable(Exception):
    """A layer that cannot be measured here, with the reason."""


def build_peer(name: str, case: Case) -> Contender:
    """Raises `Unavailable` where the package is missing, has changed, or does not offer the case."""
    try:
        return PEERS[name](case)
    except (ImportError, AttributeError, TypeError, RuntimeError) as error:
        raise Unavailable(f"{name}: {type(error).__name__}: {str(error).splitlines()[0]}") from error


def _only(holds: bool, reason: str) -> None:
    if not holds:
        raise Unavailable(reason)


def _fill(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.02)
