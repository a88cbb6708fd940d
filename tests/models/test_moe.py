"""The sparse layer as a whole."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from limoe.errors import ArgumentError
from limoe.models.experts import Experts
from limoe.models.layers import Block, Mlp
from limoe.models.moe import MoE
from limoe.routing.priority import bpr, first_come
from limoe.routing.token_choice import TopKRouter
from limoe.types import BUFFERS, Dispatcher, ExpertTokens, PackedTokens
from tests.helpers import oracle
from tests.helpers.builders import packed_groups, packed_pairs
from tests.helpers.commands import run_without_type_checks

PACKED = packed_pairs(pairs=3, image_tokens=4, text_tokens=2)


def moe(*, num_experts: int = 4, expert_init: str = "independent", dim: int = 8, **router: object) -> MoE:
    settings = {"priority": bpr, "noise_std": 0.0, **router}
    factory = partial(TopKRouter, **settings)
    layer = MoE(dim, hidden_dim=16, num_experts=num_experts, router=factory, expert_init=expert_init)
    for bias in (layer.experts.bias_in, layer.experts.bias_out):  # 1e-6 at the start: too small to test
        nn.init.normal_(bias)
        if expert_init == "identical":
            bias.data = bias.data[:1].expand_as(bias).clone()
    return layer


def dense_baseline(layer: MoE, expert: int = 0) -> Mlp:
    """The dense MLP with the weights of one expert."""
    dense = Mlp(layer.experts.weight_in.shape[1], layer.experts.weight_in.shape[2])
    dense.fc1.weight.data, dense.fc1.bias.data = (
        layer.experts.weight_in[expert].data.T,
        layer.experts.bias_in[expert].data,
    )
    dense.fc2.weight.data, dense.fc2.bias.data = (
        layer.experts.weight_out[expert].data.T,
        layer.experts.bias_out[expert].data,
    )
    return dense.to(layer.experts.weight_in.dtype)


@pytest.mark.parametrize("factor", [None, 1.0, 8.0])
def test_one_roomy_expert_is_the_dense_mlp(factor: float | None) -> None:
    """K = E = 1: the gate is exactly 1, values and gradients are those of the plain MLP."""
    layer = moe(num_experts=1, capacity_factor=factor).double()
    dense = dense_baseline(layer)
    x = torch.randn(18, 8, dtype=torch.float64, requires_grad=True)
    y, routed = layer(x, PACKED)
    assert (routed.gate == 1).all() and routed.kept.all()
    expected, _ = dense(x, PACKED)
    torch.testing.assert_close(y, expected)
    cotangent = torch.randn_like(y)
    (dx,) = torch.autograd.grad((y * cotangent).sum(), x, retain_graph=True)
    torch.testing.assert_close(dx, *torch.autograd.grad((expected * cotangent).sum(), x, retain_graph=True))
    (y * cotangent).sum().backward()
    (expected * cotangent).sum().backward()
    torch.testing.assert_close(layer.experts.weight_in.grad[0].T, dense.fc1.weight.grad)
    torch.testing.assert_close(layer.experts.bias_out.grad[0], dense.fc2.bias.grad)


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("factor", [None, 8.0])
def test_identical_experts_without_drops_are_the_dense_mlp_times_the_gates(k: int, factor: float | None) -> None:
    layer = moe(expert_init="identical", k=k, capacity_factor=factor).double()
    x = torch.randn(18, 8, dtype=torch.float64)
    y, routed = layer(x, PACKED)
    expected, _ = dense_baseline(layer)(x, PACKED)
    torch.testing.assert_close(y, routed.gate.sum(1, keepdim=True) * expected)
    if k == 4:  # all gates of a token: they sum to 1
        torch.testing.assert_close(y, expected)
    renormalised = moe(expert_init="identical", k=k, capacity_factor=factor, renormalize_gates=True).double()
    renormalised.load_state_dict(layer.state_dict())
    torch.testing.assert_close(renormalised(x, PACKED)[0], expected)


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("factor", [0.5, 1.05, None])
@pytest.mark.parametrize("pairs_per_group", [None, 2])  # three pairs: the second group is incomplete
def test_values_and_gradients_equal_nested_loops(k: int, factor: float | None, pairs_per_group: int | None) -> None:
    mask = torch.tensor([[True, False], [True, True], [False, False]])
    packed = packed_pairs(pairs=3, image_tokens=4, text_tokens=2, text_mask=mask)
    settings = {"k": k, "capacity_factor": factor, "capacity_multiple_of": 1, "pairs_per_group": pairs_per_group}
    layer = moe(**settings).double()
    x = torch.randn(18, 8, dtype=torch.float64, requires_grad=True)
    y, routed = layer(x, packed)
    gates = (x @ layer.router.weight.T).softmax(-1)
    chosen = [oracle.top_k(row, k) for row in gates.tolist()]
    slot = oracle.slots(
        chosen,
        score=[max(row) for row in gates.tolist()],
        group=[p // (pairs_per_group or 3) for p in packed.pair.tolist()],
        valid=packed.valid.tolist(),
        capacity=routed.capacity,
    )
    parameters = list(layer.experts.parameters())
    gate = gates.gather(1, torch.tensor(chosen))
    expected = oracle.moe_layer(x, gate=gate, expert_index=chosen, slot=slot, experts=parameters)
    assert factor != 0.5 or any(s is None for row in slot for s in row)
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-12)
    leaves, cotangent = [x, layer.router.weight, *parameters], torch.randn_like(y)
    found = torch.autograd.grad((y * cotangent).sum(), leaves)
    for a, b in zip(found, torch.autograd.grad((expected * cotangent).sum(), leaves), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_a_token_without_a_slot_lives_on_through_the_residual_alone() -> None:
    layer = moe(capacity_factor=1e-9, capacity_multiple_of=1, priority=first_come).double()  # one slot each
    block = Block(8, num_heads=2, mlp=layer).double()
    x = torch.randn(18, 8, dtype=torch.float64)
    y, routed = block(x, PACKED)
    dropped = ~routed.kept[:, 0]
    assert dropped.sum() >= 14
    middle = x + block.attn(block.norm1(x), PACKED)
    assert torch.equal(y[dropped], middle[dropped])
    assert (y[~dropped] != middle[~dropped]).any(-1).all()


def test_padding_and_dropped_tokens_get_exact_zeros() -> None:
    mask = torch.tensor([[True, False]] * 3)
    packed = packed_pairs(pairs=3, image_tokens=4, text_tokens=2, text_mask=mask)
    for factor in (None, 0.5):
        y, routed = moe(capacity_factor=factor)(torch.randn(18, 8), packed)
        assert not y[~routed.kept[:, 0]].any() and not routed.kept[~packed.valid].any()


def test_all_equal_logits_fill_the_first_expert_in_token_order() -> None:
    layer = moe(capacity_factor=1.0)
    nn.init.zeros_(layer.router.weight)
    _, routed = layer(torch.randn(18, 8), PACKED)
    assert routed.capacity == 8  # ceil(18 / 4) = 5 -> 8
    assert routed.expert_index.unique().tolist() == [0]
    assert routed.kept[:, 0].tolist() == [True] * 8 + [False] * 10


def test_an_idle_expert_gets_a_zero_gradient_not_none() -> None:
    for factor in (None, 8.0):
        layer = moe(num_experts=3, capacity_factor=factor)
        layer.router.weight.data = torch.tensor([[1.0] * 8, [0.0] * 8, [-1.0] * 8])
        layer(torch.rand(18, 8) + 0.1, PACKED)[0].sum().backward()
        for parameter in layer.experts.parameters():
            assert parameter.grad[0].any() and not parameter.grad[1:].any()


def test_only_padding_keeps_every_parameter_in_the_graph() -> None:
    packed = PackedTokens.of(packed_pairs(pairs=1, image_tokens=2, text_tokens=1).segments, device=torch.device("cpu"))
    packed = PackedTokens(packed.segments, packed.modality, torch.zeros_like(packed.valid), packed.pair)
    for factor in (None, 1.0):
        layer = moe(capacity_factor=factor)
        y, _ = layer(torch.randn(3, 8), packed)
        y.sum().backward()
        assert not y.any()
        assert all(p.grad is not None and not p.grad.any() for p in layer.parameters())


@pytest.mark.parametrize("training", [True, False])
def test_bfloat16_autocast_keeps_router_and_residual_precision(training: bool) -> None:
    layer, x = moe().train(training), torch.randn(18, 8)
    expected, plain = layer(x, PACKED)
    with torch.autocast("cpu", torch.bfloat16):
        y, routed = layer(x, PACKED)
    assert routed.gates.dtype == y.dtype == torch.float32
    assert torch.equal(routed.gates, plain.gates) and torch.equal(routed.kept, plain.kept)
    torch.testing.assert_close(y, expected, rtol=0.05, atol=0.05)
    assert not torch.equal(y, expected)  # the experts did run in bfloat16


@pytest.mark.parametrize("training", [True, False])
def test_a_block_in_bfloat16_stays_in_bfloat16(training: bool) -> None:
    """Gates are float32; they must not lift the residual packed, or the next norm fails on mixed types."""
    block = Block(8, num_heads=2, mlp=moe()).bfloat16().train(training)
    y, routed = block(torch.randn(18, 8, dtype=torch.bfloat16), PACKED)
    assert y.dtype == torch.bfloat16 and routed is not None and routed.logits.dtype == torch.float32


def test_expert_initialisation() -> None:
    identical, independent = (
        Experts(8, hidden_dim=16, num_experts=3, expert_init=init) for init in ("identical", "independent")
    )
    for name, parameter in identical.named_parameters():
        assert torch.equal(parameter[0], parameter[1]) and torch.equal(parameter[0], parameter[2]), name
    for name, parameter in independent.named_parameters():
        assert not torch.equal(parameter[0], parameter[1]), name
    bound = (6 / (8 + 16)) ** 0.5  # the fan of one expert, not of the stack
    for experts in (identical, independent):
        for weight in (experts.weight_in, experts.weight_out):
            assert 0.9 * bound < weight.abs().max() <= bound
        assert 0 < experts.bias_in.abs().max() < 1e-5


def test_identical_experts_do_not_share_memory() -> None:
    experts = Experts(2, hidden_dim=2, num_experts=2)
    experts.weight_in.data[0] = 7
    assert not (experts.weight_in[1] == 7).any()


def test_bad_settings() -> None:
    with pytest.raises(ArgumentError, match=r"expert_init must be 'identical' or 'independent', got 'zero'"):
        Experts(2, hidden_dim=2, num_experts=2, expert_init="zero")
    with pytest.raises(ArgumentError, match=r"num_experts must be >= 1, got 0"):
        Experts(2, hidden_dim=2, num_experts=0)


def test_result_does_not_depend_on_the_order_of_pairs() -> None:
    """BPR sees gates only: permuting whole pairs inside a group permutes the result."""
    layer = moe(capacity_factor=0.5, capacity_multiple_of=1).double()
    x, order = torch.randn(6, 5, 8, dtype=torch.float64), torch.randperm(6)
    y, routed = layer(x.flatten(0, 1), packed_groups(groups=6, length=5))
    permuted, _ = layer(x[order].flatten(0, 1), packed_groups(groups=6, length=5))
    assert not routed.kept.all()
    torch.testing.assert_close(permuted.view_as(x), y.view_as(x)[order])


COMPILE = """
import torch
from functools import partial
from limoe.models.moe import MoE
from limoe.routing.priority import bpr
from limoe.routing.token_choice import TopKRouter
from limoe.types import IMAGE, TEXT, Segment, PackedTokens

torch.set_num_threads(1)
torch.manual_seed(0)
router = partial(TopKRouter, priority=bpr, noise_std=0.0, capacity_factor=0.5)
layer = MoE(8, hidden_dim=16, num_experts=4, router=router)
mask = torch.tensor([[True, False], [True, True], [True, True]])
packed = PackedTokens.of([Segment(IMAGE, 3, 4), Segment(TEXT, 3, 2, mask)], device=torch.device("cpu"))
x = torch.randn(18, 8)
expected, routed = layer(x, packed)
expected.square().sum().backward()
gradients = [p.grad.clone() for p in layer.parameters()]
layer.zero_grad()
assert not routed.kept.all()
compiled = torch.compile(lambda x: layer(x, packed)[0], fullgraph=True, backend="aot_eager")
found = compiled(x)
found.square().sum().backward()
torch.testing.assert_close(found, expected)
for p, g in zip(layer.parameters(), gradients):
    torch.testing.assert_close(p.grad, g)
"""


def test_capacity_path_compiles_into_one_graph() -> None:
    done = run_without_type_checks(COMPILE)
    assert done.returncode == 0, done.stderr[-2000:]


def gradient_of(layer: MoE, x: Tensor) -> Tensor:
    layer.zero_grad()
    layer(x, PACKED)[0].square().sum().backward()
    gradient = layer.experts.weight_in.grad
    assert gradient is not None
    return gradient


def test_same_input_gives_the_same_bits() -> None:
    layer, x = moe(k=2), torch.randn(18, 8)
    assert torch.equal(gradient_of(layer, x), gradient_of(layer, x))


class Reversed(Dispatcher):
    """Wraps another dispatcher: its experts lie in reverse order, as if an exchange had moved them."""

    def __init__(self, inner: Dispatcher) -> None:
        self.inner = inner
        self.num_rows = {BUFFERS: inner.num_rows[BUFFERS]}

    def dispatch(self, x: Tensor, layout: str) -> ExpertTokens:
        return ExpertTokens(self.inner.dispatch(x, layout).tokens.flip(0))

    def combine(self, expert_tokens: ExpertTokens) -> Tensor:
        return self.inner.combine(ExpertTokens(expert_tokens.tokens.flip(0)))


def test_a_dispatcher_can_be_wrapped_without_a_change_in_the_layer() -> None:
    """The router returns the wrapper instead, by a hook; the experts are reversed too, so the layer is the same."""
    plain, wrapped = moe(capacity_factor=0.8).double(), moe(capacity_factor=0.8).double()
    wrapped.load_state_dict(plain.state_dict())
    for parameter in wrapped.experts.parameters():
        parameter.data = parameter.data.flip(0)
    wrapped.router.register_forward_hook(lambda module, inputs, found: (Reversed(found[0]), found[1]))
    x = torch.randn(18, 8, dtype=torch.float64)
    expected, routed = plain(x, PACKED)
    found, _ = wrapped(x, PACKED)
    assert not routed.kept.all()
    torch.testing.assert_close(found, expected)


def test_with_several_processes_the_capacity_follows_from_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """One process may leave out slots that even the fullest expert leaves empty; buffers that meet must not differ."""
    layer, x = moe(capacity_factor=4.0), torch.randn(18, 8)
    dispatcher, routed = layer.router(x, PACKED)
    assert dispatcher.capacity < routed.capacity
    monkeypatch.setattr("limoe.routing.dispatch.world_size", lambda: 2)
    dispatcher, routed = layer.router(x, PACKED)
    assert dispatcher.capacity == routed.capacity
