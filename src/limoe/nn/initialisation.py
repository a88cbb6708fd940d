"""How matrices start where PyTorch's defaults differ from the reference."""

import math

import torch
from torch import Tensor

_CUT = 2.0  # standard deviations
_INSIDE = math.erf(_CUT / math.sqrt(2))  # share of a normal distribution within the cut
_STD_OF_CUT_NORMAL = 0.87962566103423978


@torch.no_grad()
def lecun_normal_(weight: Tensor) -> Tensor:
    """Normal of variance 1 / fan_in, cut off at two standard deviations (flax's; value for value that of timm).

    The fan is that of one output: all dimensions but the first. By the inverse of the distribution function, without a
    branch on values, so it works on meta and fake tensors too.
    """
    if weight.is_meta:  # nothing to fill, and erfinv_ would import the compiler
        return weight
    std = math.prod(weight.shape[1:]) ** -0.5 / _STD_OF_CUT_NORMAL
    return weight.uniform_(-_INSIDE, _INSIDE).erfinv_().mul_(math.sqrt(2)).clamp_(-_CUT, _CUT).mul_(std)
