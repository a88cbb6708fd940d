"""Auxiliary losses: the reference values of the paper's formulas, an oracle in float64, signs, edges, and the set."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from limoe.losses.auxiliary.base import AuxLossSet
from limoe.losses.auxiliary.classic import Balance, Importance, Load, ZLoss, squared_cv
from limoe.losses.auxiliary.entropy import GlobalEntropy, LocalEntropy, MutualInformation
from limoe.types import IMAGE, MODALITIES, TEXT, RouterOutput
from tests.helpers import oracle
from tests.helpers.builders import router_output

SURE = 200.0  # logit that makes a gate exactly 1 in float64
ALL_TERMS = {
    "importance": Importance(),
    "load": Load(),
    "z": ZLoss(),
    "local_image": LocalEntropy(modality="image"),
    "local_text": LocalEntropy(modality="text"),
    "global_image": GlobalEntropy(modality="image", min_fraction=0.63),
    "global_text": GlobalEntropy(modality="text", min_fraction=0.28),
    "global_image_free": GlobalEntropy(modality="image"),
    "global_text_free": GlobalEntropy(modality="text"),
    "importance_text": Importance(modality="text"),
    "load_image": Load(modality="image"),
    "gshard": Balance(),
    "gshard_text": Balance(modality="text"),
    "mutual_information": MutualInformation(),
    "mutual_information_image": MutualInformation(modality="image"),
}
READ_NOISE = {"load", "load_image", "gshard", "gshard_text"}


def on_expert(expert: int, *, num_experts: int, tokens: int) -> Tensor:
    logits = torch.zeros(tokens, num_experts, dtype=torch.float64)
    logits[:, expert] = SURE
    return logits


def mixed(image: Tensor, text: Tensor) -> RouterOutput:
    modality = torch.tensor([IMAGE] * len(image) + [TEXT] * len(text))
    return router_output(torch.cat([image, text]), modality=modality)


# ---------------------------------------------------------------- reference values


@pytest.mark.parametrize(("num_experts", "z"), [(4, 1.92), (8, 4.32), (16, 7.69), (32, 12.01)])
def test_zero_router_weights(num_experts: int, z: float) -> None:
    image, text = torch.zeros(7, num_experts, dtype=torch.float64), torch.zeros(3, num_experts, dtype=torch.float64)
    routed = mixed(image, text)
    assert ZLoss()(routed).item() == pytest.approx(z, abs=0.005)
    assert ZLoss()(routed).item() == pytest.approx(math.log(num_experts) ** 2)
    assert Importance()(routed).item() == pytest.approx(0, abs=1e-15)
    assert Balance()(routed).item() == pytest.approx(1)
    assert MutualInformation()(routed).item() == pytest.approx(0, abs=1e-12)  # undecided
    for modality in MODALITIES:
        assert LocalEntropy(modality=modality)(routed).item() == pytest.approx(math.log(num_experts))
        assert GlobalEntropy(modality=modality)(routed).item() == pytest.approx(-math.log(num_experts))
        for wanted in range(1, num_experts + 1):
            term = GlobalEntropy(modality=modality, min_experts=wanted)
            assert term(routed).item() == pytest.approx(0, abs=1e-12)


def test_all_tokens_on_one_expert() -> None:
    one = on_expert(5, num_experts=32, tokens=4)
    routed = mixed(one, one)
    assert Importance()(routed).item() == pytest.approx(31)  # E - 1
    assert Balance()(routed).item() == pytest.approx(32)  # E
    assert MutualInformation()(routed).item() == pytest.approx(0, abs=1e-12)
    for modality in MODALITIES:
        assert LocalEntropy(modality=modality)(routed).item() == pytest.approx(0, abs=1e-12)
        assert GlobalEntropy(modality=modality)(routed).item() == pytest.approx(0, abs=1e-12)
    assert GlobalEntropy(modality="text", min_experts=9)(routed).item() == pytest.approx(2.197, abs=5e-4)
    assert GlobalEntropy(modality="image", min_experts=20)(routed).item() == pytest.approx(2.996, abs=5e-4)


@pytest.mark.parametrize(("modality", "wanted"), [("text", 9), ("image", 20)])
def test_uniform_over_more_than_the_threshold_gives_zero_and_no_push(modality: str, wanted: int) -> None:
    def spread_over(experts: int) -> tuple[float, float]:
        tokens = torch.cat([on_expert(e, num_experts=32, tokens=1) for e in range(experts)])
        tokens = tokens.clamp_max(6.0).requires_grad_()  # soft enough for a gradient
        sure = torch.cat([on_expert(e, num_experts=32, tokens=1) for e in range(experts)])
        term = GlobalEntropy(modality=modality, min_experts=wanted)
        loss = term(mixed(tokens, tokens))
        loss.backward()
        return term(mixed(sure, sure)).item(), tokens.grad.abs().max().item()

    value, push = spread_over(wanted)
    assert value == pytest.approx(0, abs=1e-12) and push == 0
    value, push = spread_over(wanted + 1)
    assert value == push == 0
    value, push = spread_over(wanted - 4)
    assert value == pytest.approx(math.log(wanted / (wanted - 4))) and push > 1e-5


@pytest.mark.parametrize(
    ("image_tokens", "num_experts", "value"),
    [(196, 32, 0.1766), (49, 32, 1.878), (196, 8, 0.0399), (49, 8, 0.424)],
)
def test_blind_spot_of_importance(image_tokens: int, num_experts: int, value: float) -> None:
    """Images uniform, all 16 texts on one expert: f^2 (E - 1) with f = 16 / (n_i + 16)."""
    image = torch.zeros(image_tokens, num_experts, dtype=torch.float64)
    loss = Importance()(mixed(image, on_expert(3, num_experts=num_experts, tokens=16))).item()
    assert loss == pytest.approx((16 / (image_tokens + 16)) ** 2 * (num_experts - 1))
    assert loss == pytest.approx(value, rel=2e-3)


@pytest.mark.parametrize(("image_tokens", "value"), [(196, 0.0646), (49, 1.526)])
def test_importance_with_text_alone_on_the_last_expert(image_tokens: int, value: float) -> None:
    image = torch.zeros(image_tokens, 32, dtype=torch.float64)
    image[:, 31] = -SURE
    loss = Importance()(mixed(image, on_expert(31, num_experts=32, tokens=16))).item()
    assert loss == pytest.approx(value, rel=1e-3)


@pytest.mark.parametrize("threshold", [None, 9])
def test_sign_of_the_global_entropy(threshold: int | None) -> None:
    """Texts mostly on expert 0: spreading them lowers the loss, and the gradient says so."""
    logits = on_expert(0, num_experts=32, tokens=6).clamp_max(6.0).requires_grad_()
    term = GlobalEntropy(modality="text", min_experts=threshold)
    loss = term(mixed(logits, logits))
    loss.backward()
    stepped = (logits - 0.5 * logits.grad).detach()
    assert oracle.global_entropy(stepped.tolist()) > oracle.global_entropy(logits.tolist())
    assert term(mixed(stepped, stepped)) < loss
    assert (logits.grad[:, 0] > 0).all() and (logits.grad[:, 1:] < 0).all()  # descent leaves the fullest expert
    flatter = logits.detach() * 0.5
    assert oracle.global_entropy(flatter.tolist()) > oracle.global_entropy(logits.tolist())
    assert term(mixed(flatter, flatter)) < loss


def test_sign_of_the_local_entropy() -> None:
    sharp, flat = on_expert(0, num_experts=4, tokens=3).clamp_max(3), on_expert(0, num_experts=4, tokens=3).clamp_max(1)
    term = LocalEntropy(modality="text")
    assert term(mixed(flat, sharp)) < term(mixed(sharp, flat))


@pytest.mark.parametrize(
    ("num_experts", "text", "image"), [(4, 2, 3), (8, 2, 5), (16, 4, 10), (32, 9, 20), (1, 1, 1), (2, 2, 2)]
)
def test_thresholds_for_other_numbers_of_experts(num_experts: int, text: int, image: int) -> None:
    for fraction, wanted in ((0.28, text), (0.63, image)):
        tau = GlobalEntropy(modality="text", min_fraction=fraction).threshold(num_experts)
        assert tau == pytest.approx(math.log(wanted))


# ---------------------------------------------------------------- oracle, modality masks


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(
    seed=st.integers(0, 10_000), num_experts=st.integers(2, 6), k=st.integers(1, 3), scale=st.sampled_from([0.1, 1, 5])
)
def test_all_terms_equal_the_oracle(seed: int, num_experts: int, k: int, scale: float) -> None:
    k = min(k, num_experts)
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(15, num_experts, generator=generator, dtype=torch.float64) * scale
    noisy = logits + torch.randn(15, num_experts, generator=generator, dtype=torch.float64) / num_experts
    modality, valid = torch.arange(15) % 2, torch.arange(15) % 5 != 3  # padding: tokens 3, 8, 13
    routed = router_output(logits, modality=modality, valid=valid, noisy_logits=noisy, k=k, noise_std=1 / num_experts)
    real, rows = valid.nonzero()[:, 0].tolist(), logits.tolist()
    text, image = ([rows[t] for t in real if t % 2 == m] for m in (1, 0))
    images, texts = ([t for t in real if t % 2 == m] for m in (0, 1))
    gates = [oracle.softmax(row) for row in noisy.tolist()]
    first = [oracle.top_k(row, 1)[0] for row in gates]
    expected = {
        "importance": oracle.importance([rows[t] for t in real]),
        "load": oracle.load(
            [rows[t] for t in real],
            noisy_logits=[noisy.tolist()[t] for t in real],
            k=k,
            noise_std=1 / num_experts,
        ),
        "z": oracle.z_loss([rows[t] for t in real]),
        "local_image": oracle.local_entropy(image),
        "local_text": oracle.local_entropy(text),
        "global_image_free": -oracle.global_entropy(image),
        "global_text_free": -oracle.global_entropy(text),
        "global_image": max(0.0, math.log(max(2, round(0.63 * num_experts))) - oracle.global_entropy(image)),
        "global_text": max(0.0, math.log(max(2, round(0.28 * num_experts))) - oracle.global_entropy(text)),
        "importance_text": oracle.importance(text),
        "load_image": oracle.load(
            image, noisy_logits=[noisy.tolist()[t] for t in images], k=k, noise_std=1 / num_experts
        ),
        "gshard": oracle.balance([first[t] for t in real], gates=[gates[t] for t in real]),
        "gshard_text": oracle.balance([first[t] for t in texts], gates=[gates[t] for t in texts]),
        "mutual_information": oracle.local_entropy([rows[t] for t in real])
        - oracle.global_entropy([rows[t] for t in real]),
        "mutual_information_image": oracle.local_entropy(image) - oracle.global_entropy(image),
    }
    found = {name: term(routed).item() for name, term in ALL_TERMS.items()}
    assert found == pytest.approx(expected, rel=1e-10, abs=1e-12)


def random_routed(*, dtype: torch.dtype = torch.float64, tokens: int = 12, num_experts: int = 4) -> RouterOutput:
    logits = torch.randn(tokens, num_experts, dtype=dtype, requires_grad=True)
    noisy = logits + torch.randn_like(logits) / num_experts
    modality = torch.arange(tokens) % 2
    return router_output(logits, modality=modality, noisy_logits=noisy, noise_std=1 / num_experts)


@pytest.mark.parametrize("name", ALL_TERMS)
def test_gradients_equal_finite_differences(name: str) -> None:
    routed = random_routed()
    noise = (routed.noisy_logits - routed.logits).detach()

    def loss(logits: Tensor) -> Tensor:
        return ALL_TERMS[name](
            router_output(logits, modality=routed.modality, noisy_logits=logits + noise, noise_std=routed.noise_std)
        )

    assert torch.autograd.gradcheck(loss, routed.logits)


@pytest.mark.parametrize("name", ALL_TERMS)
def test_padding_has_no_say(name: str) -> None:
    """Whatever padding looks like, value and gradient stay, and padding gets no gradient."""
    routed = random_routed()
    logits = torch.cat([routed.logits.detach(), torch.full((5, 4), 1e4).double()]).requires_grad_()
    noise = torch.cat([routed.noisy_logits - routed.logits, torch.zeros(5, 4)]).detach()
    padded = router_output(
        logits,
        noisy_logits=logits + noise,
        modality=torch.cat([routed.modality, torch.tensor([TEXT] * 5)]),
        valid=torch.arange(17) < 12,
        noise_std=0.25,
    )
    a, b = ALL_TERMS[name](routed), ALL_TERMS[name](padded)
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)
    (gradient,) = torch.autograd.grad(b, logits)
    (expected,) = torch.autograd.grad(a, routed.logits)
    torch.testing.assert_close(gradient[:12], expected, rtol=1e-10, atol=1e-13)
    assert not gradient[12:].any()


@pytest.mark.parametrize("name", ALL_TERMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "kind", ["uniform", "one_expert_exists", "saturated", "same_saturated", "only_images", "only_text", "only_padding"]
)
def test_value_and_gradient_are_finite_at_the_edges(name: str, dtype: torch.dtype, kind: str) -> None:
    num_experts = 1 if kind == "one_expert_exists" else 4
    logits = torch.zeros(8, num_experts, dtype=dtype)
    if kind == "saturated":
        logits = torch.eye(4, dtype=dtype).repeat(2, 1) * 2e4 - 1e4
    if kind == "same_saturated":
        logits[:, 2] = 1e4
    modality = {"only_images": [IMAGE] * 8, "only_text": [TEXT] * 8}.get(kind, [IMAGE, TEXT] * 4)
    logits.requires_grad_()
    valid = torch.full((8,), kind != "only_padding")
    routed = router_output(
        logits, modality=torch.tensor(modality), valid=valid, noisy_logits=logits + 0.0, noise_std=1 / num_experts
    )
    value = ALL_TERMS[name](routed)
    value.backward()
    assert value.isfinite() and logits.grad.isfinite().all()
    if kind == "only_padding":
        assert value == 0 and not logits.grad.any()
    absent = {"only_images": "text", "only_text": "image"}.get(kind)
    if absent and absent in name:
        assert value == 0 and not logits.grad.any()


def test_uniform_gates_give_zero_gradient_of_importance() -> None:
    """The root in std / mean has an infinite slope here; var / mean^2 has slope 0."""
    logits = torch.zeros(6, 4, requires_grad=True)
    Importance()(router_output(logits)).backward()
    assert logits.grad.abs().max() < 1e-9


def test_squared_cv_uses_the_population_variance() -> None:
    # 1 2 3 6: mean 3, deviations 4 1 0 9 -> 14 / 4 = 3.5, over 9
    assert squared_cv(torch.tensor([1.0, 2, 3, 6])).item() == pytest.approx(3.5 / 9)


def test_load_counts_chances_by_hand() -> None:
    """One token, two experts, clean logits 0 and 1, noisy 0.3 and 1.1, sigma 0.5, K = 1: threshold 1.1.

    Phi((0 - 1.1) / 0.5) = Phi(-2.2) = 0.0139034, Phi((1 - 1.1) / 0.5) = Phi(-0.2) = 0.4207403;
    mean 0.2173218, half difference 0.2034184: CV^2 = (0.2034184 / 0.2173218)^2 = 0.876141.
    """
    routed = router_output(torch.tensor([[0.0, 1]]), noisy_logits=torch.tensor([[0.3, 1.1]]), noise_std=0.5)
    assert Load()(routed).item() == pytest.approx(0.876141, abs=1e-5)


def test_load_without_noise_says_what_to_do() -> None:
    assert Load.needs_noise and not Importance.needs_noise
    with pytest.raises(ValueError, match=r"undefined without router noise: set noise_std > 0"):
        Load()(router_output(torch.zeros(2, 4)))


def test_losses_read_clean_gates() -> None:
    """Only load and balance see the noise."""
    clean = random_routed()
    noisy = dataclasses.replace(
        clean, noisy_logits=torch.randn(12, 4).double(), gates=torch.full((12, 4), 0.25).double()
    )
    for name, term in ALL_TERMS.items():
        assert torch.equal(term(clean), term(noisy)) == (name not in READ_NOISE), name


# ---------------------------------------------------------------- by hand


def test_balance_by_hand() -> None:
    """Two tokens, two experts, gates (3/4, 1/4) and (2/3, 1/3): f = (1, 0), P_0 = 17/24, loss 2 * 17/24 = 17/12.

    With f held, its gradient is that of E * P_0: the raw product rule of f as a function of gates would add a term.
    """
    logits = torch.tensor([[3.0, 1.0], [2.0, 1.0]]).log().requires_grad_()
    loss = Balance()(router_output(logits))
    assert loss.item() == pytest.approx(17 / 12)
    loss.backward()
    # d p_0 / d z_0 = p_0 p_1: 2 * (1/2) * 3/16 and 2 * (1/2) * 2/9
    assert logits.grad[:, 0].tolist() == pytest.approx([3 / 16, 2 / 9])


def test_balance_counts_first_choices_before_drops_also_for_k_two() -> None:
    """Both tokens choose expert 0 first and have no slot; second choices 1 and 2 do not count: f = (1, 0, 0)."""
    gates = torch.tensor([[0.5, 0.3, 0.2], [0.6, 0.1, 0.3]])
    routed = router_output(gates.log(), k=2, kept=torch.zeros(2, 2, dtype=torch.bool))
    assert routed.expert_index.tolist() == [[0, 1], [0, 2]]
    assert Balance()(routed).item() == pytest.approx(3 * 0.55)


def test_mutual_information_by_hand() -> None:
    """Two tokens sure of different experts of two: H(p) = 0, mean gate (1/2, 1/2), so -ln 2; a third undecided one
    leaves the mean gate and adds ln 2 / 3 of local entropy."""
    sure = torch.tensor([[SURE, 0], [0, SURE]], dtype=torch.float64)
    assert MutualInformation()(router_output(sure)).item() == pytest.approx(-math.log(2))
    three = torch.cat([sure, torch.zeros(1, 2).double()])
    assert MutualInformation()(router_output(three)).item() == pytest.approx(math.log(2) / 3 - math.log(2))


def test_sign_of_the_mutual_information() -> None:
    """All tokens on expert 0, a little undecided: a step against the gradient raises I(token; expert)."""
    torch.manual_seed(3)
    logits = (on_expert(0, num_experts=4, tokens=6).clamp_max(2.0) + 0.3 * torch.randn(6, 4).double()).requires_grad_()
    MutualInformation()(router_output(logits)).backward()
    rows = (logits - logits.grad).tolist()
    information = oracle.global_entropy(rows) - oracle.local_entropy(rows)
    assert information > oracle.global_entropy(logits.tolist()) - oracle.local_entropy(logits.tolist())


def test_a_modality_of_its_own_sees_what_all_tokens_hide() -> None:
    """Images uniform, text on one of 8: importance of text alone is E - 1 = 7, over all tokens 0.0399."""
    routed = mixed(torch.zeros(196, 8).double(), on_expert(3, num_experts=8, tokens=16))
    assert Importance(modality="text")(routed).item() == pytest.approx(7)
    assert Importance(modality="image")(routed).item() == pytest.approx(0, abs=1e-12)
    assert Balance(modality="text")(routed).item() == pytest.approx(8)


NORMALISED = {
    "importance": Importance(),
    "load": Load(),
    "gshard": Balance(),
    "global_text": GlobalEntropy(modality="text", min_experts=3),
    "global_text_free": GlobalEntropy(modality="text"),
    "mutual_information": MutualInformation(),
}


def spread_on(experts: int, *, num_experts: int = 8) -> RouterOutput:
    """Tokens sure of `experts` experts, equally many each; noise too small to matter."""
    tokens = torch.cat([on_expert(e, num_experts=num_experts, tokens=1) for e in range(experts)])
    return router_output(tokens, modality=torch.full((experts,), TEXT), noise_std=1 / num_experts)


@pytest.mark.parametrize(
    ("experts", "expected"),
    [
        # on S of 8: 1 + CV^2 = 8 / S, balance 8 / S, min(1, S / 3), S / 8, ln S / ln 8. Load: half a token each, since
        # the largest logit ties with its own threshold; the share per expert is the same
        (
            8,
            {"importance": 1, "load": 1, "gshard": 1, "global_text": 1, "global_text_free": 1, "mutual_information": 1},
        ),
        (
            2,
            {
                **{"importance": 4, "load": 4, "gshard": 4},
                **{"global_text": 2 / 3, "global_text_free": 1 / 4, "mutual_information": 1 / 3},
            },
        ),
        (
            1,
            {
                **{"importance": 8, "load": 8, "gshard": 8},
                **{"global_text": 1 / 3, "global_text_free": 1 / 8, "mutual_information": 0},
            },
        ),
    ],
)
def test_normalised_values(experts: int, expected: dict[str, float]) -> None:
    routed = spread_on(experts)
    found = {name: term.normalised(term(routed), 8).item() for name, term in NORMALISED.items()}
    assert found == pytest.approx(expected, abs=1e-12)


def test_losses_that_do_not_measure_balance_have_no_normalised_value() -> None:
    for term in (ZLoss(), LocalEntropy(modality="text")):
        assert term.normalised(term(spread_on(8)), 8) is None
    assert MutualInformation().normalised(torch.zeros(()), 1) is None


def test_losses_are_full_precision_under_autocast() -> None:
    routed = random_routed(dtype=torch.float32, tokens=64)
    expected = AuxLossSet(ALL_TERMS)({0: routed}).total
    with torch.autocast("cpu", torch.bfloat16):
        found = AuxLossSet(ALL_TERMS)({0: dataclasses.replace(routed)}).total
    assert found.dtype == torch.float32 and torch.equal(found, expected)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Importance(weight=-1), "^weight must be a number >= 0, got -1"),
        (lambda: Importance(weight=True), "^weight must be a number >= 0, got True"),
        (lambda: Balance(absolute_weight=-1), "^absolute_weight must be a number >= 0 or null, got -1"),
        (lambda: LocalEntropy(modality="audio"), "'image' or 'text', got 'audio'"),
        (
            lambda: GlobalEntropy(modality="text", min_experts=0),
            "^min_experts must be a number >= 1 or null, got 0",
        ),
        (
            lambda: GlobalEntropy(modality="text", min_fraction=1.5),
            r"^min_fraction must be a number in \(0, 1\] or null, got 1\.5",
        ),
        (
            lambda: GlobalEntropy(modality="text", min_experts=9).threshold(8),
            "^min_experts must be <= num_experts=8, got 9",
        ),
    ],
)
def test_bad_settings(build: Callable[..., Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
