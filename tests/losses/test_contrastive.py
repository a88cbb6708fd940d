"""The contrastive losses: by hand, against an oracle, in chunks, and on two processes."""

import math
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from limoe.losses.contrastive import ContrastiveLoss, SigmoidContrastive, SoftmaxContrastive
from limoe.parallel.collectives import all_gather, rank, world_size
from tests.helpers import oracle
from tests.helpers.ranks import SECONDS, mean_over_ranks, run_two


def features(pairs: int, *, seed: int, dim: int = 5, aligned: bool = False) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(pairs, dim, generator=generator, dtype=torch.float64)
    text = torch.randn(pairs, dim, generator=generator, dtype=torch.float64)
    text = image + 0.01 * text if aligned else text
    return F.normalize(image, dim=-1), F.normalize(text, dim=-1)


def test_two_matching_pairs_by_hand() -> None:
    """Orthogonal pairs at temperature factor 2: logits (2, 0), every row costs ln(1 + e^-2) = 0.126928."""
    eye = torch.eye(2)
    assert SoftmaxContrastive()(eye, eye, torch.tensor(2.0)).item() == pytest.approx(0.126928, abs=1e-6)


def test_both_directions_count_half() -> None:
    """Two images share one text direction. Logits (3, 3), (0, 0).

    Images to texts: ln 2 for both rows. Texts to images: rows (3, 0) twice, targets 0 and 1:
    (ln(1 + e^-3) + ln(1 + e^3)) / 2 = (0.048587 + 3.048587) / 2 = 1.548587. Half of each: 1.120867.
    """
    image, text = torch.eye(2), torch.tensor([[1.0, 0], [1, 0]])
    loss = SoftmaxContrastive()(image, text, torch.tensor(3.0)).item()
    assert loss == pytest.approx(0.5 * (math.log(2) + 1.548587), abs=1e-6) == pytest.approx(1.120867, abs=1e-6)


@pytest.mark.parametrize("scale", [1.0, 10.0, 100.0])
@pytest.mark.parametrize("aligned", [False, True])
def test_equals_the_oracle_in_float64(scale: float, aligned: bool) -> None:
    image, text = features(7, seed=1, aligned=aligned)
    found = SoftmaxContrastive()(image, text, torch.tensor(scale, dtype=torch.float64))
    assert found.dtype == torch.float64
    assert found.item() == pytest.approx(oracle.contrastive(image.tolist(), text.tolist(), scale), rel=1e-10)


def test_gradients_equal_finite_differences() -> None:
    image, text = features(4, seed=2)
    scale = torch.tensor(10.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(SoftmaxContrastive(), (image.requires_grad_(), text.requires_grad_(), scale))


def test_chance_level_is_the_log_of_the_batch() -> None:
    same = torch.ones(16, 3) / 3**0.5
    assert SoftmaxContrastive()(same, same, torch.tensor(10.0)).item() == pytest.approx(math.log(16), rel=1e-6)


def test_a_hot_temperature_keeps_its_digits() -> None:
    """Loss 2 ln(1 + e^-100) / 2 = 3.7e-44 is subnormal in float32: 0, not the 1e-6 that logsumexp - diagonal leaves."""
    eye = torch.eye(2)
    assert SoftmaxContrastive()(eye, eye, torch.tensor(100.0)).item() == pytest.approx(0, abs=1e-12)


def test_is_float32_under_autocast_and_for_bfloat16_features() -> None:
    image, text = (f.float() for f in features(6, seed=3, aligned=True))
    scale = torch.tensor(100.0)
    expected = SoftmaxContrastive()(image, text, scale)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(SoftmaxContrastive()(image, text, scale), expected)
        assert SoftmaxContrastive()(image.bfloat16(), text.bfloat16(), scale).dtype == torch.float32


# ---------------------------------------------------------------- sigmoid


def test_sigmoid_of_two_matching_pairs_by_hand() -> None:
    """Orthogonal pairs, t = 2, b = -1: logits 1 on the diagonal, -1 beside it; each of the two rows costs
    -ln sigmoid(1) - ln sigmoid(-(-1)) = 2 * 0.313262 = 0.626523, and so does their mean."""
    loss = SigmoidContrastive(init_bias=-1.0)(torch.eye(2), torch.eye(2), torch.tensor(2.0))
    assert loss.item() == pytest.approx(0.626523, abs=1e-6)


def test_sigmoid_rows_are_images_and_are_averaged() -> None:
    """One image direction (1, 0), texts (1, 0) and (0, 1), t = 3, b = -3: logits (0, -3) in both rows.

    Row 0: -ln sigmoid(0) - ln sigmoid(3) = 0.693147 + 0.048587. Row 1, whose partner is the second text:
    -ln sigmoid(0) - ln sigmoid(-3) = 0.693147 + 3.048587. Mean: 2.241734.
    """
    image, text = torch.tensor([[1.0, 0], [1, 0]]), torch.eye(2)
    assert SigmoidContrastive(init_bias=-3.0)(image, text, torch.tensor(3.0)).item() == pytest.approx(
        2.241734, abs=1e-6
    )


def test_sigmoid_equals_a_double_loop() -> None:
    image, text = features(6, seed=1)
    loss = SigmoidContrastive(init_bias=-2.5).double()(image, text, torch.tensor(10.0, dtype=torch.float64))
    total = 0.0
    for i in range(6):
        for j in range(6):
            logit = 10 * sum(a * b for a, b in zip(image[i].tolist(), text[j].tolist(), strict=True)) - 2.5
            total += math.log(1 + math.exp(-logit if i == j else logit))
    assert loss.item() == pytest.approx(total / 6, rel=1e-12)


def test_sigmoid_gradients_equal_finite_differences() -> None:
    image, text = features(3, seed=2)
    scale = torch.tensor(10.0, dtype=torch.float64, requires_grad=True)
    loss = SigmoidContrastive(init_bias=-2.0).double()
    assert torch.autograd.gradcheck(loss, (image.requires_grad_(), text.requires_grad_(), scale))
    loss(image, text, scale).backward()
    expected, shifted = loss.bias.grad.item(), []
    for bias in (-2.0 + 1e-6, -2.0 - 1e-6):
        loss.bias.data.fill_(bias)
        shifted.append(loss(image, text, scale).item())
    assert expected == pytest.approx((shifted[0] - shifted[1]) / 2e-6, rel=1e-6)


# ---------------------------------------------------------------- chunks


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("chunk_size", [1, 3, 10, 11, 99])
@pytest.mark.parametrize("kind", [SoftmaxContrastive, SigmoidContrastive])
def test_chunks_equal_the_whole(kind: type[ContrastiveLoss], chunk_size: int, dtype: torch.dtype) -> None:
    found = []
    for size in (None, chunk_size):
        leaves = [f.to(dtype).requires_grad_() for f in features(10, seed=6, aligned=True)]
        scale = torch.tensor(30.0, dtype=dtype, requires_grad=True)
        loss = kind(chunk_size=size).to(dtype)
        value = loss(*leaves, scale)
        found.append([value, *torch.autograd.grad(value, [*leaves, scale, *loss.parameters()])])
    for whole, chunked in zip(*found, strict=True):
        tolerance = 1e-6 if dtype == torch.float32 else 1e-13
        torch.testing.assert_close(chunked, whole, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", [SoftmaxContrastive, SigmoidContrastive])
def test_memory_does_not_grow_with_the_square_of_the_batch(kind: type[ContrastiveLoss]) -> None:
    """Largest tensor of forward and backward, seen by a dispatch mode: [B, B] at once, [4, B] in chunks of 4."""
    largest = {}
    for size in (None, 4):
        image, text = (f.float().requires_grad_() for f in features(64, seed=7))
        with LargestTensor() as seen:
            kind(chunk_size=size)(image, text, torch.tensor(10.0)).backward()
        largest[size] = seen.numel
    assert largest == {None: 64 * 64, 4: 64 * 5}  # in chunks that is the features themselves


class LargestTensor(TorchDispatchMode):
    numel = 0

    def __torch_dispatch__(
        self, func: Any, types: tuple[type[Any]], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [x for x in torch.utils._pytree.tree_leaves(result) if isinstance(x, Tensor)]
        self.numel = max([self.numel, *(x.numel() for x in tensors)])
        return result


@pytest.mark.parametrize("size", [0, -2])
def test_bad_chunk_size(size: int) -> None:
    with pytest.raises(ValueError, match=rf"^chunk_size must be >= 1 or null, got {size}"):
        SoftmaxContrastive(chunk_size=size)


def test_one_process_needs_no_group() -> None:
    x = torch.randn(3, 2)
    assert world_size() == 1 and rank() == 0 and all_gather(x) is x


# ---------------------------------------------------------------- two processes

CASES = {"random": (4, 10.0, False), "aligned and hot": (3, 100.0, True), "one pair each": (1, 10.0, False)}
LOSSES = {
    "softmax": SoftmaxContrastive(),
    "softmax in chunks": SoftmaxContrastive(chunk_size=2),
    "sigmoid": SigmoidContrastive().double(),
    "sigmoid in chunks": SigmoidContrastive(chunk_size=2).double(),
}


def grads(contrastive: ContrastiveLoss, image: Tensor, text: Tensor, scale: float) -> dict[str, Tensor]:
    """Loss and gradients of a small shared model: a linear map in front of both features, and the temperature."""
    generator = torch.Generator().manual_seed(5)
    weight = torch.randn(5, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    log_scale = torch.tensor(math.log(scale), dtype=torch.float64, requires_grad=True)
    loss = contrastive(F.normalize(image @ weight, dim=-1), F.normalize(text @ weight, dim=-1), log_scale.exp())
    leaves = {"weight": weight, "log_scale": log_scale, **dict(contrastive.named_parameters())}
    found = torch.autograd.grad(loss, list(leaves.values()))
    return {"loss": loss.detach(), **dict(zip(leaves, found, strict=True))}


def work(number: int) -> dict[str, dict[str, Tensor]]:
    """One of two ranks: its half of every case; what DDP would apply is the mean over ranks."""
    found = {}
    for (name, (pairs, scale, aligned)), (kind, loss) in product(CASES.items(), LOSSES.items()):
        image, text = features(2 * pairs, seed=4, aligned=aligned)
        mine = slice(number * pairs, (number + 1) * pairs)
        own = grads(loss, image[mine], text[mine], scale)
        found[f"{name}, {kind}"] = {key: mean_over_ranks(value) for key, value in own.items()}
    found["gather"] = {"rows": all_gather(torch.full((2, 3), float(number)))}
    return found


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Tensor]]:
    return run_two(work, tmp_path_factory.mktemp("ranks"))


@pytest.mark.timeout(SECONDS + 20)
@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("name", CASES)
def test_two_processes_equal_one(name: str, kind: str, two_processes: dict[str, dict[str, Tensor]]) -> None:
    pairs, scale, aligned = CASES[name]
    expected = grads(LOSSES[kind.removesuffix(" in chunks")], *features(2 * pairs, seed=4, aligned=aligned), scale)
    for key, value in expected.items():
        torch.testing.assert_close(two_processes[f"{name}, {kind}"][key], value, rtol=1e-10, atol=1e-13, msg=key)
    assert expected["weight"].any()


@pytest.mark.timeout(SECONDS + 20)
def test_gathered_rows_lie_in_rank_order(two_processes: dict[str, dict[str, Tensor]]) -> None:
    assert two_processes["gather"]["rows"].tolist() == [[0.0] * 3] * 2 + [[1.0] * 3] * 2
