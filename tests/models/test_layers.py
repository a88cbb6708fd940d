"""Dense parts of the model against plain formulas."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from limoe.models.layers import (
    Attention,
    Block,
    ImageEmbed,
    LayerNorm,
    Mlp,
    TextEmbed,
    attend,
    attention_mask,
    linear_head,
    masked_mean,
)
from tests.helpers.builders import packed_pairs

MASK = torch.tensor([[True, True, False], [True, True, True], [False, False, False]])


def attention_of_one_sequence(layer: Attention, x: Tensor, real: list[bool]) -> Tensor:
    """Head by head, query by query; padding is no key, unless there is nothing else."""
    dim, heads = x.shape[-1], layer.num_heads
    q, k, v = (
        x @ layer.qkv.weight[i * dim : (i + 1) * dim].T + layer.qkv.bias[i * dim : (i + 1) * dim] for i in range(3)
    )
    keys = [j for j, r in enumerate(real) if r] or list(range(len(real)))
    size, rows = dim // heads, []
    for query in q:
        parts = []
        for h in range(heads):
            cut = slice(h * size, (h + 1) * size)
            score = torch.stack([query[cut] @ k[j, cut] / math.sqrt(size) for j in keys]).softmax(0)
            parts.append(sum(s * v[j, cut] for s, j in zip(score, keys, strict=True)))
        rows.append(torch.cat(parts))
    return torch.stack(rows) @ layer.proj.weight.T + layer.proj.bias


def test_attention_equals_the_formula_and_stays_inside_each_sequence() -> None:
    layer = Attention(8, num_heads=2).double()
    torch.nn.init.normal_(layer.qkv.bias)
    packed = packed_pairs(pairs=3, image_tokens=4, text_tokens=3, text_mask=MASK)
    x = torch.randn(21, 8, dtype=torch.float64)
    found = layer(x, packed)
    images = [attention_of_one_sequence(layer, x[4 * i : 4 * i + 4], [True] * 4) for i in range(3)]
    texts = [attention_of_one_sequence(layer, x[12 + 3 * i : 15 + 3 * i], MASK[i].tolist()) for i in range(3)]
    torch.testing.assert_close(found, torch.cat([*images, *texts]), rtol=1e-10, atol=1e-12)


def torch_has_fused_bfloat16() -> bool:
    """Not under ATEN_CPU_CAPABILITY=default on a CPU with AVX512: torch 2.13 packs for the CPU it sees and then refuses
    ("pack_vnni2 is only supported when avx512 is supported")."""
    x = torch.zeros(1, 1, 65, 16, dtype=torch.bfloat16)
    try:
        F.scaled_dot_product_attention(x, x, x)
    except RuntimeError:
        return False
    return True


@pytest.mark.parametrize("tokens", [3, 64, 65])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_short_and_long_attention_equal_the_fused_product(tokens: int, masked: bool, dtype: torch.dtype) -> None:
    """With autocast too, which must not lower the products of short sequences. Error against float64, for the output
    and its gradients; bfloat16 rounds by up to 2^-9 where it leaves them."""
    if dtype == torch.bfloat16 and tokens > 64 and not torch_has_fused_bfloat16():
        pytest.skip("torch itself refuses fused bfloat16 attention under this ATEN_CPU_CAPABILITY")
    query, key, value = (torch.randn(2, 3, tokens, 16).to(dtype).requires_grad_() for _ in range(3))
    mask = attention_mask(torch.rand(2, tokens) < 0.6) if masked else None
    exact = [x.detach().double().requires_grad_() for x in (query, key, value)]
    expected = F.scaled_dot_product_attention(exact[0], exact[1], exact[2], attn_mask=mask)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        found = attend(query, key, value, mask)
    assert found.dtype == dtype
    weight = torch.randn(found.shape).to(dtype)
    pairs = [(found, expected)]
    leaves = (
        torch.autograd.grad(found, (query, key, value), weight),
        torch.autograd.grad(expected, exact, weight.double()),
    )
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 2**-7}[dtype]
    for own, right in [*pairs, *zip(*leaves, strict=True)]:
        assert (own.double() - right).norm() <= tolerance * right.norm()


def test_attention_mask_of_an_empty_sequence_attends_to_all() -> None:
    expected = [[True, True, False], [True, True, True], [True, True, True]]
    assert attention_mask(MASK)[:, 0, 0].tolist() == expected


def test_an_empty_text_gives_finite_gradients() -> None:
    layer, x = Attention(8, num_heads=2), torch.randn(21, 8, requires_grad=True)
    layer(x, packed_pairs(pairs=3, image_tokens=4, text_tokens=3, text_mask=MASK)).sum().backward()
    assert x.grad.isfinite().all()


def test_mlp_is_tanh_gelu() -> None:
    """Exact and tanh GELU differ by up to 4.7e-4: too much for the reference's numbers."""
    layer = Mlp(1, 1).double()
    for linear in (layer.fc1, layer.fc2):
        torch.nn.init.ones_(linear.weight)
        torch.nn.init.zeros_(linear.bias)
    packed = packed_pairs(pairs=1, image_tokens=1, text_tokens=1)
    x = torch.tensor([[1.0], [-2.3]], dtype=torch.float64)
    y, routed = layer(x, packed)
    expected = [0.5 * v * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))) for v in (1.0, -2.3)]
    assert routed is None and y[:, 0].tolist() == pytest.approx(expected, rel=1e-12)


def test_layer_norm_eps() -> None:
    """Values 0 and 2e-3: mean 1e-3, variance 1e-6, so (x - mean) / sqrt(1e-6 + 1e-6) = -+ 1 / sqrt 2."""
    found = LayerNorm(2).double()(torch.tensor([0, 2e-3], dtype=torch.float64))
    assert found.tolist() == pytest.approx([-(0.5**0.5), 0.5**0.5])


def test_block_is_pre_norm_with_two_residuals() -> None:
    block = Block(8, num_heads=2, mlp=Mlp(8, 16)).double()
    packed, x = packed_pairs(pairs=1, image_tokens=3, text_tokens=2), torch.randn(5, 8, dtype=torch.float64)

    def norm(v: Tensor) -> Tensor:
        return (v - v.mean(-1, keepdim=True)) / (v.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()

    middle = x + block.attn(norm(x), packed)
    torch.testing.assert_close(block(x, packed)[0], middle + block.mlp(norm(middle), packed)[0])


def test_image_tokens_are_patches_row_by_row_plus_positions() -> None:
    embed = ImageEmbed(5, image_size=6, patch_size=2)
    images = torch.randn(2, 3, 6, 6)
    weight, bias = embed.patch_embed.proj.weight, embed.patch_embed.proj.bias
    for position, (row, column) in enumerate((r, c) for r in (0, 2, 4) for c in (0, 2, 4)):
        patch = images[1, :, row : row + 2, column : column + 2]
        expected = (weight * patch).sum((1, 2, 3)) + bias + embed.pos_embed[position]
        torch.testing.assert_close(embed(images)[1, position], expected)


def test_text_tokens_are_table_rows_plus_positions_and_may_be_short() -> None:
    embed = TextEmbed(4, vocab_size=7, length=5)
    ids = torch.tensor([[6, 0, 6]])
    torch.testing.assert_close(embed(ids), embed.token_embed.weight[ids] + embed.pos_embed[:3])


def test_masked_mean_by_hand() -> None:
    x = torch.tensor([[[1.0], [3.0], [100.0]], [[1.0], [2.0], [6.0]], [[5.0], [5.0], [5.0]]])
    assert masked_mean(x, MASK)[:, 0].tolist() == [2, 3, 0]


def test_initial_values_follow_the_reference() -> None:
    """Xavier per projection (bound sqrt(6 / 2D), not torch's fused sqrt(6 / 4D)); biases as the reference has them."""
    attention, mlp = Attention(64, num_heads=4), Mlp(64, 256)
    bound = math.sqrt(6 / 128)
    for projection in (*attention.qkv.weight.chunk(3), attention.proj.weight):
        assert 0.98 * bound < projection.abs().max() <= bound
    assert not attention.qkv.bias.any() and not attention.proj.bias.any()
    for linear in (mlp.fc1, mlp.fc2):
        assert 0.98 * math.sqrt(6 / 320) < linear.weight.abs().max() <= math.sqrt(6 / 320)
        assert 0 < linear.bias.abs().max() < 1e-5
    assert TextEmbed(64, vocab_size=999, length=16).token_embed.weight.std().item() == pytest.approx(1 / 8, rel=0.02)
    image = ImageEmbed(64, image_size=32, patch_size=4)
    assert image.patch_embed.proj.weight.std().item() == pytest.approx(48**-0.5, rel=0.05)
    assert not image.patch_embed.proj.bias.any() and image.pos_embed.std().item() == pytest.approx(0.02, rel=0.05)
    head = linear_head(64, 32)
    assert head.bias is None and head.weight.std().item() == pytest.approx(1 / 8, rel=0.05)
