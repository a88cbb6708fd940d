"""The zoo on the meta device against the closed formulas and the rows of the paper's table."""

import pytest

from limoe.accounting.anatomy import anatomy
from limoe.accounting.parameters import parameters
from tests.helpers.configs import built

# width, depth, H, patch, image tokens, sparse layers, dense in millions, sparse in billions (32 experts)
SIZES = {
    "s32": (512, 8, 2048, 32, 49, 4, 43.7, 0.30),
    "s16": (512, 8, 2048, 16, 196, 4, 42.6, 0.30),
    "s16_std": (384, 12, 1536, 16, 196, 6, 34.3, 0.25),
    "b32": (768, 12, 3072, 32, 49, 6, 113, 0.99),
    "b16": (768, 12, 3072, 16, 196, 6, 112, 0.99),
    "l32": (1024, 24, 4096, 32, 49, 12, 340, 3.46),
    "l16": (1024, 24, 4096, 16, 196, 12, 338, 3.46),
    "h14": (1280, 32, 5120, 14, 256, 12, 675.0, 5.55),
}


def found(model: str) -> dict[str, int]:
    network = built(f"model={model}")
    return parameters(network, anatomy(network), pairs=64)


@pytest.mark.parametrize("size", SIZES)
def test_sizes(size: str) -> None:
    d, depth, h, patch, n_i, layers, millions, billions = SIZES[size]
    # blocks; patches, positions, a table of 32,000, 16 text positions, patch bias, final norm, two heads; temperature
    one_tower = depth * (4 * d**2 + 9 * d + 2 * d * h + h) + (3 * patch**2 + n_i + 32_019 + 2 * d) * d + 1
    expert = 2 * d * h + h + d
    dense, sparse = found(f"dense_{size}"), found(f"limoe_{size}")
    assert dense["total"] == dense["active_per_token"] == dense["trained"] == one_tower
    assert one_tower / 1e6 == pytest.approx(millions, rel=0.005)
    assert sparse["total"] == one_tower + layers * (31 * expert + 32 * d)
    assert round(sparse["total"] / 1e9, 2) == billions
    assert sparse["active_per_token"] == one_tower + layers * 32 * d  # at K = 1 the dense model and the routers
    assert (sparse["experts"], sparse["routers"]) == (layers * 32 * expert, layers * 32 * d)


def test_two_towers_have_two_of_everything_but_the_temperature() -> None:
    dense, two = found("dense_b16"), found("two_tower_b16")
    tower = 12 * (4 * 768**2 + 9 * 768 + 2 * 768 * 3072 + 3072) + 2 * 768  # blocks and final norm
    assert two["total"] == dense["total"] + tower
    assert two["active_image"] == dense["active_image"] and two["active_text"] == dense["active_text"]
    assert two["active_image"] + two["active_text"] + 1 == two["total"]


def test_one_modality_alone() -> None:
    """An image passes neither the token table, nor the text positions, nor the text's head."""
    dense = found("dense_b16")
    assert dense["active_image"] == dense["total"] - 1 - (32_000 + 16 + 768) * 768
    assert dense["active_text"] == dense["total"] - 1 - (3 * 16**2 + 1 + 196 + 768) * 768


def test_experts_that_choose_are_visited_on_average_and_soft_ones_always() -> None:
    for routing, idle in (("top_k", 7 / 8), ("expert_choice", 7 / 8), ("soft", 0)):
        network = built("model=limoe_tiny", f"routing={routing}")
        counts = parameters(network, anatomy(network), pairs=64)
        assert counts["total"] - counts["active_per_token"] == idle * counts["experts"]


def test_a_locked_tower_is_not_trained() -> None:
    counts = found("lit_b16")
    assert counts["trained"] == counts["active_text"] + 1 and counts["active_image"] == 85_798_656  # timm's ViT-B/16
