"""Every way to multiply gives the same layer; empty rows are never read; nothing waits for the data."""

from collections.abc import Iterator
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from limoe.errors import ArgumentError
from limoe.models import expert_backends
from limoe.models.expert_backends import run_experts
from limoe.models.experts import Experts
from limoe.models.moe import MoE
from limoe.routing import dispatch
from limoe.routing.dispatch import SlotDispatcher
from limoe.routing.priority import bpr
from limoe.routing.soft import SoftRouter
from limoe.routing.token_choice import TopKRouter
from limoe.types import BUFFERS, SORTED, PackedTokens
from tests.helpers.builders import packed_pairs, slot_dispatcher

BACKENDS = ("padded", "grouped", "loop")
MASK = torch.tensor([[True, False], [True, True], [False, False]])
PACKED = packed_pairs(pairs=3, image_tokens=4, text_tokens=2, text_mask=MASK)


def layer_of(backend: str, **router: object) -> MoE:
    """Width 8 and hidden width 16: rows of a multiple of 16 bytes in float32 and bfloat16, as grouped products want."""
    torch.manual_seed(1)
    factory = partial(TopKRouter, **{"priority": bpr, "noise_std": 0.0, "capacity_multiple_of": 1, **router})
    layer = MoE(8, hidden_dim=16, num_experts=4, router=factory, expert_init="independent", expert_backend=backend)
    for bias in (layer.experts.bias_in, layer.experts.bias_out):
        nn.init.normal_(bias)
    return layer


def run(layer: MoE, x: Tensor, *, autocast: bool = False, packed: PackedTokens = PACKED) -> list[Tensor]:
    """Output and all gradients, the input's first."""
    x = x.detach().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y, _ = layer(x, packed)
    cotangent = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    return [y, *torch.autograd.grad((y * cotangent).sum(), [x, *layer.parameters()])]


@pytest.fixture
def poisoned() -> Iterator[None]:
    """Whatever is not initialised is NaN."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(2).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


PRECISIONS = {"float64": (1e-11, False), "float32": (1e-5, False), "bfloat16": (0.1, True)}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("factor", [0.5, 1.05, 4.0, None])
def test_backends_agree_in_value_and_gradients(poisoned: None, factor: float | None, k: int, precision: str) -> None:
    """Against the padded product in float64. bfloat16 carries 8 bits, and the sums here are of order 10."""
    tolerance, autocast = PRECISIONS[precision]
    x = torch.randn(18, 8)
    expected = run(layer_of("padded", k=k, capacity_factor=factor).double(), x.double())
    for backend in BACKENDS:
        layer = layer_of(backend, k=k, capacity_factor=factor)
        double = precision == "float64"
        found = run(layer.double() if double else layer, x.double() if double else x, autocast=autocast)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a.double(), b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("factor", [1.0, None])
def test_no_token_is_kept(poisoned: None, factor: float | None, backend: str) -> None:
    """Only padding: no row is held, still everything is finite and every gradient is a zero."""
    padding = PackedTokens(PACKED.segments, PACKED.modality, torch.zeros_like(PACKED.valid), PACKED.pair)
    found = run(layer_of(backend, capacity_factor=factor), torch.randn(18, 8), packed=padding)
    assert not any(f.any() for f in found)  # NaN counts as True


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("capacity", [2, None])
def test_without_tokens(capacity: int | None, backend: str) -> None:
    empty = torch.zeros(0, dtype=torch.long)
    gate = torch.zeros(0, 2, requires_grad=True)
    dispatcher, _ = slot_dispatcher(
        empty.view(0, 2),
        gate=gate,
        score=empty.float(),
        group=empty,
        valid=empty.bool(),
        num_experts=4,
        num_groups=1,
        capacity=capacity,
    )
    experts = layer_of(backend).experts
    x = torch.zeros(0, 8, requires_grad=True)
    buffers = dispatcher.dispatch(x, experts.select_layout(dispatcher))
    y = dispatcher.combine(experts(buffers))
    assert y.shape == (0, 8)
    assert not any(g.any() for g in torch.autograd.grad(y.sum(), [x, gate, *experts.parameters()]))


def test_autocast_reaches_every_backend() -> None:
    x = torch.randn(18, 8)
    for backend in BACKENDS:
        exact, rounded = run(layer_of(backend), x), run(layer_of(backend), x, autocast=True)
        assert rounded[0].dtype == torch.float32
        assert not torch.equal(exact[0], rounded[0])
        assert all(g.dtype == torch.float32 for g in rounded)


@pytest.mark.parametrize(
    ("wanted", "capacity", "expected"),
    [
        ([400] * 4, 400, "padded"),  # nothing is wasted
        ([420, 380, 400, 400], 420, "padded"),  # 1,680 rows for 1,600 tokens: 1.05 times, 400 tokens per expert
        ([428, 372, 400, 400], 428, "loop"),  # 1,712: 1.07 times
        ([428, 371, 400, 400], 428, "padded"),  # 1.07 times too, but fewer than 400 tokens per expert
        ([2] * 4, 2, "padded"),
        ([20, 14, 15, 15], 20, "padded"),  # 80 rows for 64 tokens: 1.25 times
        ([21, 13, 15, 15], 21, "loop"),  # 84
        ([16] * 4, 21, "padded"),  # the other slots are not needed: 64
        ([500] * 4, 100, "padded"),  # 400 rows for 2,000 tokens
        ([2] * 4, None, "loop"),
    ],
)
def test_auto_on_a_cpu_chooses_by_rows_per_expert_and_by_waste(
    wanted: list[int], capacity: int | None, expected: str
) -> None:
    experts = layer_of("auto").experts
    layout = experts.select_layout(dispatcher_of(wanted, capacity=capacity))
    assert layout == {"padded": BUFFERS, "loop": SORTED}[expected]


def dispatcher_of(wanted: list[int], *, capacity: int | None) -> SlotDispatcher:
    tokens = sum(wanted)
    dispatcher, _ = slot_dispatcher(
        torch.arange(4).repeat_interleave(torch.tensor(wanted))[:, None],
        gate=torch.ones(tokens, 1),
        score=torch.zeros(tokens),
        group=torch.zeros(tokens, dtype=torch.long),
        valid=torch.ones(tokens, dtype=torch.bool),
        num_experts=4,
        num_groups=1,
        capacity=capacity,
    )
    return dispatcher


@pytest.mark.parametrize(
    ("dim", "dtype", "expected"),
    [
        (8, torch.float32, "grouped"),
        (8, torch.bfloat16, "grouped"),
        (8, torch.float64, "loop"),
        (6, torch.float32, "loop"),
    ],
)
def test_grouped_falls_back_where_torch_has_none(
    dim: int, dtype: torch.dtype, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No float64; rows of 6 numbers are 24 bytes, no multiple of 16."""
    used = []
    for name in ("_grouped", "expert_loop"):
        way = getattr(expert_backends, name)
        monkeypatch.setattr(expert_backends, name, lambda *given, way=way, name=name: used.append(name) or way(*given))
    weights = Experts(dim, hidden_dim=16, num_experts=4).weights(dtype)
    buffers = dispatcher_of([2] * 4, capacity=4).dispatch(torch.randn(8, dim, dtype=dtype), SORTED)
    run_experts(buffers, weights=weights, backend="grouped")
    assert used == ["_grouped" if expected == "grouped" else "expert_loop"]


def test_rows_that_cannot_be_packed_are_multiplied_at_once() -> None:
    """Soft MoE fills every slot: any setting gives the batched product."""
    x, found = torch.randn(18, 8), []
    for backend in (*BACKENDS, "auto"):
        layer = layer_of("auto")
        torch.manual_seed(2)
        layer.router = SoftRouter(8, num_experts=4, slots_per_expert=2)
        layer.expert_backend = backend  # type: ignore[assignment]
        found.append(run(layer, x))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize(("backend", "factor"), [("padded", 1.05), ("grouped", 1.05), ("grouped", None)])
def test_no_shape_and_no_branch_depends_on_the_data(
    backend: str, factor: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fake tensors know shapes but no values: whatever would make a GPU wait for its results raises."""
    monkeypatch.setattr(dispatch, "trimmed_capacity", lambda demand, capacity: capacity)  # reads the data on a CPU
    with FakeTensorMode():
        layer, x = layer_of(backend, capacity_factor=factor), torch.randn(18, 8, requires_grad=True)
        mask = torch.ones(3, 2, dtype=torch.bool)
        with torch.autocast("cpu", torch.bfloat16):  # torch groups nothing else without values
            y, _ = layer(x, packed_pairs(pairs=3, image_tokens=4, text_tokens=2, text_mask=mask))
        y.sum().backward()
        assert x.grad is not None and x.grad.shape == (18, 8)


@pytest.mark.parametrize("backend", ["loop", "padded"])
def test_what_waits_for_the_data_is_found(backend: str) -> None:
    """The proof above can fail: without a limit these two need row counts on the host."""
    with FakeTensorMode(), pytest.raises(DataDependentOutputException):
        layer_of(backend, capacity_factor=None)(
            torch.randn(18, 8), packed_pairs(pairs=3, image_tokens=4, text_tokens=2)
        )


def test_unknown_backend() -> None:
    with pytest.raises(ArgumentError, match=r"expert_backend must be one of auto, .*, got 'megablocks'"):
        layer_of("megablocks")
