"""Every YAML of the group `aux_loss`: documented, and what it builds is finite and differentiable."""

import pytest
import torch
from omegaconf import DictConfig

import limoe.losses.auxiliary
from limoe.config.objects import instantiate, plain
from limoe.losses.auxiliary.base import AuxLoss, AuxLossSet
from tests.helpers.builders import router_output
from tests.helpers.configs import composed
from tests.helpers.paths import CONFIGS, DOCS

FILES = sorted((CONFIGS / "aux_loss").glob("*.yaml"))
NAMES = [path.stem for path in FILES]
DOCS = DOCS / "losses.md"


def losses(cfg: DictConfig) -> AuxLossSet:
    return AuxLossSet(instantiate(cfg.aux_loss), **plain(cfg.aux_total))


@pytest.mark.parametrize("name", NAMES)
def test_finite_and_differentiable(name: str) -> None:
    logits = torch.randn(40, 8, requires_grad=True)
    noisy = logits + torch.randn(40, 8) / 8
    routed = router_output(logits, noisy_logits=noisy, modality=torch.arange(40) % 2, noise_std=1 / 8)
    built = losses(composed(f"aux_loss={name}"))
    found = built({1: routed})
    assert set(found.raw) == set(found.weighted) == set(built.terms)  # no option comes with a loss that is off
    if name == "none":
        assert found.total == 0
        return
    for key, value in found.weighted.items():
        (gradient,) = torch.autograd.grad(value, logits, retain_graph=True)
        assert value.isfinite() and gradient.isfinite().all(), key
        assert gradient.any() or found.raw[key] == 0, key  # thresholded losses are 0 where there is nothing to push
    assert all(value.isfinite() for value in found.normalised.values())


@pytest.mark.parametrize(
    ("option", "scales"),
    [
        ("classic_z", dict.fromkeys(("importance", "load", "z"), 0.04 / 3)),
        ("switch", {"switch": 0.01}),
        ("[gshard,z]", {"gshard": 0.01, "z": 0.04}),
        ("[limoe,gshard]", {"gshard": 0.01, "z": 0.04 / 6}),
        ("[importance_text,load_image]", {"importance_text": 0.02, "load_image": 0.02}),
    ],
)
def test_weights_in_the_total(option: str, scales: dict[str, float]) -> None:
    built = losses(composed(f"aux_loss={option}"))
    routed = router_output(torch.randn(40, 8), modality=torch.arange(40) % 2, noise_std=1 / 8)
    found = built({1: routed})
    for name, scale in scales.items():
        assert found.weighted[name].item() == pytest.approx(scale * found.raw[name].item())


def test_st_moe_by_overrides() -> None:
    cfg = composed("aux_loss=[gshard,z]", "aux_loss.z.absolute_weight=0.001", "aux_total.over_layers=sum")
    routed = router_output(torch.randn(40, 8))
    found = losses(cfg)({1: routed, 3: routed})
    assert found.total.item() == pytest.approx(0.01 * found.raw["gshard"].item() + 0.001 * found.raw["z"].item())


def test_statistics_over_all_ranks_are_a_setting() -> None:
    assert all(term.is_global for term in losses(composed("aux_total.stats_sync=global")).terms.values())
    assert not any(term.is_global for term in losses(composed()).terms.values())


@pytest.mark.parametrize("name", NAMES)
def test_documented(name: str) -> None:
    assert f"`{name}`" in DOCS.read_text()


def test_the_package_names_every_class() -> None:
    for path in FILES:
        for term in losses(composed(f"aux_loss={path.stem}")).terms.values():
            assert isinstance(term, AuxLoss) and type(term).__doc__
            dotted = f"{type(term).__module__.rpartition('.')[2]}.{type(term).__name__}"
            assert dotted in str(limoe.losses.auxiliary.__doc__)
