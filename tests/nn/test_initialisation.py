"""Initialisers against timm's."""

import pytest
import torch
from timm.layers import lecun_normal_ as timms

from limoe.nn.initialisation import lecun_normal_


@pytest.mark.parametrize("shape", [(64, 48), (32, 3, 4, 4)])
def test_lecun_normal_equals_timms(shape: tuple[int, ...]) -> None:
    torch.manual_seed(3)
    timms(expected := torch.empty(shape))
    torch.manual_seed(3)
    torch.testing.assert_close(lecun_normal_(torch.empty(shape)), expected, rtol=1e-6, atol=1e-7)
    # variance 1 / 48 for both shapes, and nothing beyond 2 / 0.8796 of that standard deviation
    assert expected.std().item() == pytest.approx(48**-0.5, rel=0.05)
    assert expected.abs().max() <= 2.28 * 48**-0.5


def test_it_fills_parameters_and_needs_no_values() -> None:
    assert lecun_normal_(torch.nn.Parameter(torch.empty(8, 4))).requires_grad
    assert lecun_normal_(torch.empty(8, 4, device="meta")).shape == (8, 4)
