"""The softmax contrastive loss: by hand, against an oracle, and on two processes."""

import math

import oracle
import pytest
import torch
import torch.nn.functional as F
from ranks import SECONDS, mean_over_ranks, run_two
from torch import Tensor

from limoe.contrastive import SoftmaxContrastive
from limoe.distributed import all_gather, rank, world_size


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
    """Two pictures share one text direction. Logits (3, 3), (0, 0).

    Pictures to texts: ln 2 for both rows. Texts to pictures: rows (3, 0) twice, targets 0 and 1:
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


def test_one_process_needs_no_group() -> None:
    x = torch.randn(3, 2)
    assert world_size() == 1 and rank() == 0 and all_gather(x) is x


# ---------------------------------------------------------------- two processes

CASES = {"random": (4, 10.0, False), "aligned and hot": (3, 100.0, True), "one pair each": (1, 10.0, False)}


def grads(image: Tensor, text: Tensor, scale: float) -> dict[str, Tensor]:
    """Loss and gradients of a small shared model: a linear map in front of both features, and the temperature."""
    generator = torch.Generator().manual_seed(5)
    weight = torch.randn(5, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    log_scale = torch.tensor(math.log(scale), dtype=torch.float64, requires_grad=True)
    loss = SoftmaxContrastive()(
        F.normalize(image @ weight, dim=-1), F.normalize(text @ weight, dim=-1), log_scale.exp()
    )
    loss.backward()
    return {"loss": loss.detach(), "weight": weight.grad, "log_scale": log_scale.grad}


def work(number: int) -> dict[str, dict[str, Tensor]]:
    """One of two ranks: its half of every case; what DDP would apply is the mean over ranks."""
    found = {}
    for name, (pairs, scale, aligned) in CASES.items():
        image, text = features(2 * pairs, seed=4, aligned=aligned)
        mine = slice(number * pairs, (number + 1) * pairs)
        found[name] = {key: mean_over_ranks(v) for key, v in grads(image[mine], text[mine], scale).items()}
    found["gather"] = {"rows": all_gather(torch.full((2, 3), float(number)))}
    return found


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Tensor]]:
    return run_two(work, tmp_path_factory.mktemp("ranks"))


@pytest.mark.timeout(SECONDS + 20)
@pytest.mark.parametrize("name", CASES)
def test_two_processes_equal_one(name: str, two_processes: dict[str, dict[str, Tensor]]) -> None:
    pairs, scale, aligned = CASES[name]
    expected = grads(*features(2 * pairs, seed=4, aligned=aligned), scale)
    for key, value in expected.items():
        torch.testing.assert_close(two_processes[name][key], value, rtol=1e-10, atol=1e-13, msg=key)
    assert expected["weight"].any()


@pytest.mark.timeout(SECONDS + 20)
def test_gathered_rows_lie_in_rank_order(two_processes: dict[str, dict[str, Tensor]]) -> None:
    assert two_processes["gather"]["rows"].tolist() == [[0.0] * 3] * 2 + [[1.0] * 3] * 2
