"""A batch in parts against the batch at once: loss, every gradient, routers, statistics; on one process and on two."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import limoe.models.layers
from limoe.callbacks.gradient_share import GradientShare
from limoe.losses.auxiliary.base import AuxLoss, AuxLossSet
from limoe.losses.auxiliary.classic import Importance, Load, ZLoss
from limoe.losses.auxiliary.entropy import GlobalEntropy, LocalEntropy
from limoe.losses.contrastive import ContrastiveLoss, SigmoidContrastive, SoftmaxContrastive
from limoe.routing.priority import first_come
from limoe.routing.statistics import modality_statistics
from limoe.routing.token_choice import TopKRouter
from limoe.training.micro_batches import encode
from limoe.types import MODALITIES, Batch, ModelOutput, PackedTokens
from tests.helpers.builders import Batches, quiet_trainer, tiny_batch, tiny_model
from tests.helpers.ranks import SECONDS, run_two
from tests.helpers.training import aux_losses, module

PAIRS = 16
ROUTER = {"pairs_per_group": 2, "capacity_factor": 0.6}  # some tokens are dropped, and the same ones in every part


def losses(**settings: str) -> AuxLossSet:
    """What aux_loss=limoe holds."""
    terms: dict[str, AuxLoss] = {"importance": Importance(), "load": Load(), "z": ZLoss()}
    terms |= {"local_text": LocalEntropy(modality="text")}
    terms |= {f"global_{name}": GlobalEntropy(modality=name, min_fraction=0.28) for name in MODALITIES}
    return AuxLossSet(terms, weight=1.0, **settings)


def sparse(*, kind: type[TopKRouter] = TopKRouter, **changes: object) -> nn.Module:
    torch.manual_seed(3)
    return tiny_model(depth=3, moe_layers=(0, 2), kind=kind, router={**ROUTER, **changes})


@contextmanager
def noise_of_the_token() -> Iterator[None]:
    """Router noise that is a function of the token alone, so that cutting the batch does not change its draws."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randn_like", lambda like: (10 * like.detach()).sin())
        yield


def step(
    model: nn.Module, batch: Batch, *, size: int | None, loss: ContrastiveLoss, aux: AuxLossSet
) -> tuple[ModelOutput, dict[str, Tensor]]:
    """Forward and one backward: the output, and loss and gradients by name."""
    model.zero_grad()
    loss.zero_grad()
    with noise_of_the_token():
        output = encode(model, batch, micro_batch_size=size)
        total = loss(output.image_features, output.text_features, output.logit_scale) + aux(output.routing).total
        total.backward()
    named = [*model.named_parameters(), *loss.named_parameters()]
    return output, {"loss": total.detach()} | {name: p.grad.clone() for name, p in named if p.grad is not None}


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    """Within `tolerance` of the largest value of each tensor."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, rtol=0, atol=tolerance * max(1.0, value.abs().max().item()), msg=name
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("parts", [4, 8])
@pytest.mark.parametrize("loss", [SoftmaxContrastive(), SigmoidContrastive(), SoftmaxContrastive(chunk_size=3)])
def test_accumulation_equals_the_big_batch(loss: ContrastiveLoss, parts: int, dtype: torch.dtype) -> None:
    """All six losses of aux_loss=limoe, noise and dropped tokens included, 1 against 4 and 8 parts."""
    batch, model = tiny_batch(pairs=PAIRS), sparse().to(dtype)
    batch = batch._replace(images=batch.images.to(dtype))
    whole, expected = step(model, batch, size=None, loss=loss, aux=losses())
    cut, found = step(model, batch, size=PAIRS // parts, loss=loss, aux=losses())
    assert 0.3 < whole.routing[0].kept[whole.routing[0].valid].double().mean() < 0.95
    assert_equal(found, expected, 1e-6 if dtype == torch.float32 else 1e-12)
    torch.testing.assert_close(cut.image_features, whole.image_features)


def test_averaged_micro_batches_are_something_else() -> None:
    """What the cached-gradient method is for: the mean of parts knows fewer negatives."""
    batch, model, loss = tiny_batch(pairs=PAIRS), sparse(), SoftmaxContrastive()
    _, whole = step(model, batch, size=None, loss=loss, aux=AuxLossSet({}))
    halves = [Batch(*(x[at] for x in batch)) for at in (slice(0, 8), slice(8, 16))]
    parts = [step(model, half, size=None, loss=loss, aux=AuxLossSet({}))[1] for half in halves]
    mean = (parts[0]["image_head.weight"] + parts[1]["image_head.weight"]) / 2
    assert (mean - whole["image_head.weight"]).norm() > 0.1 * whole["image_head.weight"].norm()


def test_statistics_see_the_whole_batch() -> None:
    batch, model = tiny_batch(pairs=PAIRS), sparse()
    whole, _ = step(model, batch, size=None, loss=SoftmaxContrastive(), aux=losses())
    cut, _ = step(model, batch, size=4, loss=SoftmaxContrastive(), aux=losses())
    assert list(cut.routing) == [0, 2]
    for layer, routed in cut.routing.items():
        assert routed.capacity == whole.routing[layer].capacity
        for modality in range(len(MODALITIES)):
            for a, b in zip(*(modality_statistics(r, modality) for r in (routed, whole.routing[layer])), strict=True):
                torch.testing.assert_close(a, b)


def test_recomputation_counts_no_token_twice_and_chooses_the_same_experts() -> None:
    """With real noise. Every choice of a router is recorded: first and second time must agree."""
    batch, model = tiny_batch(pairs=8), sparse(noise_std=4.0, bias_balance={})
    routers = {layer: model.tower.blocks[layer].mlp.router for layer in (0, 2)}
    chosen: dict[int, list[Tensor]] = {layer: [] for layer in routers}
    for layer, router in routers.items():
        router.register_forward_hook(lambda m, i, out, layer=layer: chosen[layer].append(out[1].expert_index))
    output = encode(model, batch, micro_batch_size=4)
    SoftmaxContrastive()(output.image_features, output.text_features, output.logit_scale).backward()
    redrawn = encode(model, Batch(*(x[:4] for x in batch))).routing
    for layer, router in routers.items():
        first, second, *again, _ = chosen[layer]
        assert torch.equal(torch.cat([first, second]), output.routing[layer].expert_index)
        assert len(again) == 2 and torch.equal(again[0], second) and torch.equal(again[1], first)
        assert not torch.equal(first, redrawn[layer].expert_index)
        assert router.balance.counting
    model.zero_grad()
    for router in routers.values():
        router.balance.counts.zero_()
    encode(model, batch, micro_batch_size=4).image_features.sum().backward()
    tokens = 8 * 4 + batch.text_mask.sum().item()
    assert all(router.balance.counts.sum() == tokens for router in routers.values())


def test_only_one_part_is_kept_for_the_backward() -> None:
    """Bytes the graph holds outside of recomputation, by autograd's own hook: the batch itself and no activation."""

    def saved(size: int | None) -> int:
        found: dict[int, int] = {}

        def pack(x: Tensor) -> Tensor:
            found[x.data_ptr()] = x.nbytes
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            encode(model, batch, micro_batch_size=size)
        return sum(found.values())

    model, batch = sparse(), tiny_batch(pairs=64)
    inputs = sum(x.nbytes for x in (batch.images, batch.text_ids, batch.text_mask))
    assert saved(8) == inputs < 0.05 * saved(None)


def test_a_ragged_batch_and_a_small_one() -> None:
    """Validation may end with fewer pairs."""
    model = sparse().eval()
    for pairs in (3, 10):
        batch = tiny_batch(pairs=pairs)
        expected, found = encode(model, batch), encode(model, batch, micro_batch_size=4)
        torch.testing.assert_close(found.text_features, expected.text_features)


class GivenExperts(TopKRouter):
    """Learned gates, but the expert follows from the place of a token, so that rounding cannot send it elsewhere."""

    def _select(self, gates: Tensor, packed: PackedTokens, reachable: Tensor | None) -> Tensor:
        return torch.arange(len(gates))[:, None] % self.num_experts


def test_parts_add_up_in_float32_under_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """32 parts in bfloat16. If they shared one weight cast to it, they would also add up their gradients in it."""

    def gradient(size: int | None) -> Tensor:
        model = sparse(kind=GivenExperts, capacity_factor=None)
        with noise_of_the_token(), torch.autocast("cpu", torch.bfloat16):
            output = encode(model, tiny_batch(pairs=64), micro_batch_size=size)
            loss = SoftmaxContrastive()(output.image_features, output.text_features, output.logit_scale)
            with torch.autocast("cpu", enabled=False):
                loss.backward()
        return model.tower.blocks[1].mlp.fc1.weight.grad

    whole, parts = gradient(None), gradient(2)
    monkeypatch.setattr(torch, "clear_autocast_cache", lambda: None)
    shared = gradient(2)
    assert (parts - whole).norm() < 0.005 * whole.norm()
    assert (parts - whole).norm() < 0.6 * (shared - whole).norm()


@pytest.mark.parametrize("size", [0, -1])
def test_bad_size(size: int) -> None:
    with pytest.raises(ValueError, match=rf"micro_batch_size must be >= 1 or null, got {size}"):
        module(micro_batch_size=size)


@pytest.mark.parametrize("longest_plain", [0, 64], ids=["fused attention", "plain attention"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_training_by_the_trainer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, precision: str, longest_plain: int
) -> None:
    """Three steps in parts and three at once end at the same weights; shares of the gradient can be measured.

    In bfloat16 the experts are given and slots go by order: after the first step the weights differ by rounding, a
    token whose two best logits nearly tie then changes its expert, and no bound on rounding holds any longer. What is
    left is continuous. A gradient of the whole batch is rounded to bfloat16 once (2^-9 at most), one of a part once per
    part, and so are the activations before it; the ways that the weights go differ by less than eight of these.
    """
    monkeypatch.setattr(limoe.models.layers, "_SHORT", longest_plain)
    low = precision == "bf16-mixed"
    weights = []
    for size in (None, 2):
        torch.manual_seed(0)
        router = {"noise_std": 1.0} | ({"priority": first_come} if low else {})
        lit = module(
            model=sparse(kind=GivenExperts if low else TopKRouter, **router),
            aux_losses=aux_losses(),
            micro_batch_size=size,
            optimizer=lambda m: torch.optim.SGD(m.parameters(), lr=0.1),
        )
        start = {name: p.detach().clone() for name, p in lit.model.named_parameters()}
        trainer = quiet_trainer(tmp_path, max_steps=3, precision=precision, callbacks=[GradientShare(every_n_steps=2)])
        with noise_of_the_token():
            trainer.fit(lit, Batches([tiny_batch(seed=i) for i in range(3)]), Batches([tiny_batch(seed=9)]))
        assert "train/router_grad_norm" in trainer.logged_metrics
        weights.append(dict(lit.model.named_parameters()))
    whole, parts = weights
    if low:
        assert distance(parts, whole) < 0.015 * distance(start, whole)
    else:
        torch.testing.assert_close(parts, whole, rtol=1e-6, atol=1e-6)


def distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    return math.sqrt(sum((a[name] - b[name]).square().sum().item() for name in a))


# ---------------------------------------------------------------- two processes


def joint(pairs: slice, *, size: int | None, distributed: bool) -> dict[str, Tensor]:
    """Loss and gradients of some of the pairs, by way of DDP on a rank."""
    model, loss = sparse().double(), SigmoidContrastive(chunk_size=3).double()
    aux = losses(stats_sync="global")
    batch = tiny_batch(pairs=PAIRS)
    batch = Batch(*(x[pairs] for x in batch._replace(images=batch.images.double())))

    class Step(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.loss = model, loss

        def forward(self) -> Tensor:
            output = encode(self.model, batch, micro_batch_size=size)
            task = self.loss(output.image_features, output.text_features, output.logit_scale)
            return task + aux(output.routing).total

    whole = Step()
    wrapped = nn.parallel.DistributedDataParallel(whole) if distributed else whole
    with noise_of_the_token():
        wrapped().backward()
    return {name: p.grad for name, p in whole.named_parameters() if p.grad is not None}


def work(number: int) -> dict[str, Tensor]:
    return joint(slice(8 * number, 8 * number + 8), size=2, distributed=True)


@pytest.mark.timeout(SECONDS + 20)
def test_two_processes_with_parts_equal_one_without(tmp_path: Path) -> None:
    expected = joint(slice(0, PAIRS), size=None, distributed=False)
    assert {"loss.bias", "model.tower.blocks.0.mlp.router.weight"} <= expected.keys()
    assert_equal(run_two(work, tmp_path), expected, 1e-12)
