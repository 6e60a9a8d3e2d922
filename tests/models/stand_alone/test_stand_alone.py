"""Stand-alone self-attention: published sizes, the stem against its formula, pools behind the attention."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import models
from models.adaptive_span.attention import LocalAttention
from models.stand_alone.attention_stem import BLOCK_PX, AttentionStem, BlockAttention
from models.stand_alone.network import AttentionBottleneck

PUBLISHED_MILLIONS = {26: 10.3, 38: 14.1, 50: 18.0}
CONVOLUTIONAL_MILLIONS = {26: 13.7, 38: 19.6, 50: 25.6}


def naive_stem(layer: BlockAttention, x: Tensor) -> Tensor:
    """Compute one pixel at a time: logits of the keys of its block, their softmax, mixed values."""
    batch, _, height, width = x.shape
    heads, channels = layer.num_heads, layer.qk.out_channels // 2
    dim, half = channels // heads, channels // 2
    weight = layer.qk.weight[:, :, 0, 0]
    out = torch.zeros(batch, channels, height, width, dtype=x.dtype)
    for row in range(height):
        for col in range(width):
            corner_row, corner_col = row - row % BLOCK_PX, col - col % BLOCK_PX
            query = x[:, :, row, col] @ weight[:channels].T
            logits, values = [], []
            for a in range(BLOCK_PX):
                for b in range(BLOCK_PX):
                    inside = corner_row + a < height and corner_col + b < width
                    pixel = x[:, :, corner_row + a, corner_col + b] if inside else torch.zeros_like(x[:, :, 0, 0])
                    key = pixel @ weight[channels:].T
                    offset_row, offset_col = corner_row + a - row, corner_col + b - col
                    embedding = torch.cat([layer.rel_h[:, offset_row + 3], layer.rel_w[:, offset_col + 3]])
                    assert len(embedding) == 2 * half
                    products = query * (key + embedding)
                    logits.append(products.reshape(batch, heads, dim).sum(2))
                    share = torch.stack([(layer.row[a] + layer.col[b]) @ nu for nu in layer.mixture]).softmax(0)
                    values.append(sum(p * (pixel @ matrix.T) for p, matrix in zip(share, layer.values, strict=True)))
            attention = torch.stack(logits, dim=2).softmax(2)
            stacked = torch.stack(values, dim=1).reshape(batch, 16, heads, dim)
            out[:, :, row, col] = torch.einsum("bhk,bkhd->bhd", attention, stacked).flatten(1)
    return out


@pytest.mark.parametrize("size", [(4, 4), (8, 5), (3, 7)])
@pytest.mark.parametrize("num_heads", [1, 2])
def test_the_stem_equals_the_formula_forward_and_backward(num_heads: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    layer = BlockAttention(3, 8, num_heads=num_heads).double()
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    inputs = [x, *layer.parameters()]
    found, expected = layer(x), naive_stem(layer, x)
    torch.testing.assert_close(found, expected)
    probe = torch.randn_like(expected)
    gradients = [torch.autograd.grad((y * probe).sum(), inputs) for y in (found, expected)]
    for ours, reference in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, reference)


def test_shares_of_the_linear_maps_sum_to_one_at_each_place() -> None:
    layer = BlockAttention(3, 8, num_heads=2)
    shares = layer.mixture_weights()
    assert shares.shape == (4, 4, 4)
    torch.testing.assert_close(shares.sum(2), torch.ones(4, 4))


def test_the_stem_quarters_any_map() -> None:
    stem = AttentionStem(1, 8, num_heads=2)
    for side, expected in ((32, 8), (33, 9), (6, 2)):
        assert stem(torch.randn(2, 1, side, side)).shape == (2, 8, expected, expected)


@pytest.mark.parametrize("depth", PUBLISHED_MILLIONS)
@pytest.mark.parametrize("stem", ["7x7", "attention"])
def test_parameters_are_the_published_ones(stem: str, depth: int) -> None:
    with torch.device("meta"):
        network: Any = timm.create_model(f"sasa_resnet{depth}", stem=stem)
    layers = [module for module in network.modules() if isinstance(module, LocalAttention)]
    assert len(layers) == {26: 8, 38: 12, 50: 16}[depth]
    assert {(layer.num_heads, layer.rel_h.shape[1]) for layer in layers} == {(8, 7)}
    millions = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    assert millions == pytest.approx(PUBLISHED_MILLIONS[depth], abs=0.1)  # 14.19 million for the 14.1 of ResNet38


@pytest.mark.parametrize("depth", CONVOLUTIONAL_MILLIONS)
def test_without_attention_the_network_is_a_plain_resnet(depth: int) -> None:
    shape = {"num_classes": 1000, "in_chans": 3, "image_size": 224}
    cost = models.model_cost(f"sasa_resnet{depth}", {"stages": "FFFF"}, **shape)
    assert round(cost.params / 1e6, 1) == CONVOLUTIONAL_MILLIONS[depth]
    if depth == 50:
        plain = timm.create_model("resnet50", device="meta")
        assert cost.params == sum(parameter.numel() for parameter in plain.parameters())
        assert cost.macs == pytest.approx(4.09e9, rel=0.01)  # as published for ResNet50
    attention = models.model_cost(f"sasa_resnet{depth}", {}, **shape)
    assert 0.7 * cost.macs < attention.macs < cost.macs


def test_a_pool_follows_the_attention_where_a_stage_halves_its_map() -> None:
    torch.manual_seed(0)
    attention = LocalAttention(4, num_heads=2, kernel_size=3)
    block = AttentionBottleneck(8, 4, attention=attention, stride=2).eval()
    x = torch.randn(2, 8, 5, 6)
    inner = block.reduce(x)
    pooled = nn.functional.avg_pool2d(attention(inner), 2, ceil_mode=True)
    expected = torch.relu(block.expand(torch.relu(block.bn(pooled))) + block.shortcut(x))
    torch.testing.assert_close(block(x), expected)
    assert expected.shape == (2, 16, 3, 3)


def test_a_hybrid_with_an_attention_stem_trains() -> None:
    torch.manual_seed(0)
    network = models.create_model(
        "sasa_resnet26", num_classes=3, in_chans=1, stem="attention", stages="FFTT", num_heads=4, scaled=True
    )
    assert [type(stage[0].spatial) for stage in network.stages] == [
        nn.Conv2d,
        nn.Conv2d,
        LocalAttention,
        LocalAttention,
    ]
    nn.functional.cross_entropy(network(torch.randn(2, 1, 32, 32)), torch.tensor([0, 2])).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_heads_divide_the_narrowest_stage() -> None:
    (problem,) = models.check_options("sasa_resnet26", {"num_heads": 7})
    assert str(problem) == "num_heads: got 7; num_heads divides the 64 channels of the narrowest stage. Use 8."
