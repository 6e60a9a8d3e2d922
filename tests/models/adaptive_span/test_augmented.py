"""Attention-augmented convolution against its formula, written out pixel by pixel."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import models
from models.adaptive_span.augmented_attention import AugmentedConv


def naive(layer: AugmentedConv, x: Tensor) -> Tensor:
    """Compute one logit at a time, as in Bello et al. 2019."""
    batch, _, height, width = x.shape
    heads, dk, dv = layer.num_heads, layer.dk // layer.num_heads, layer.dv // layer.num_heads
    places = [(row, col) for row in range(height) for col in range(width)]
    q, k, v = layer.qkv(x).split([layer.dk, layer.dk, layer.dv], dim=1)
    found = []
    for head in range(heads):
        queries = q[:, head * dk : (head + 1) * dk] * dk**-0.5
        keys = k[:, head * dk : (head + 1) * dk]
        values = v[:, head * dv : (head + 1) * dv].flatten(2)
        pixels = []
        for row, col in places:
            query = queries[:, :, row, col]
            logits = []
            for other_row, other_col in places:
                key = keys[:, :, other_row, other_col]
                if layer.relative:
                    key = key + layer.rel_h[max(-31, min(31, other_row - row)) + 31]
                    key = key + layer.rel_w[max(-31, min(31, other_col - col)) + 31]
                logits.append((query * key).sum(1))
            weights = torch.stack(logits, dim=1).softmax(1)
            pixels.append(torch.einsum("bp,bdp->bd", weights, values))
        found.append(torch.stack(pixels, dim=1))  # (B, pixels, dv per head)
    if layer.pixels_before_channels:
        y = torch.stack(found, dim=1).reshape(batch, layer.dv, height, width)
    else:
        y = torch.cat(found, dim=2).transpose(1, 2).reshape(batch, layer.dv, height, width)
    return torch.cat([layer.conv(x), functional.conv2d(y, layer.project.weight, layer.project.bias)], dim=1)


@pytest.mark.parametrize("size", [(3, 5), (4, 2), (1, 1), (1, 36)])
@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize(
    "sizes",
    [
        {"dk": 6, "dv": 2, "num_heads": 2},
        {"dk": 4, "dv": 6, "num_heads": 2, "kernel_size": 5},
        {"dk": 4, "dv": 6, "num_heads": 2, "pixels_before_channels": True},
    ],
)
def test_equals_the_formula(sizes: dict[str, int], relative: bool, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    layer = AugmentedConv(8, relative=relative, **sizes).double()
    x = torch.randn(2, 8, *size, dtype=torch.float64, requires_grad=True)
    inputs = [x, *layer.parameters()]
    expected, found = naive(layer, x), layer(x)
    torch.testing.assert_close(found, expected)
    probe = torch.randn_like(expected)
    gradients = [torch.autograd.grad((y * probe).sum(), inputs) for y in (found, expected)]
    for ours, reference in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, reference)


def test_both_layouts_agree_with_one_value_channel_per_head() -> None:
    torch.manual_seed(0)
    layer = AugmentedConv(8, dk=8, dv=4, num_heads=4)
    x = torch.randn(2, 8, 4, 3)
    expected = layer(x)
    layer.pixels_before_channels = True
    torch.testing.assert_close(layer(x), expected)


def test_relative_positions_work_at_any_size() -> None:
    network = models.create_model("augmented_resnet26_small", num_classes=3, relative=True).eval()
    with torch.no_grad():
        for side in ((8, 8), (9, 13), (40, 3)):
            assert torch.isfinite(network(torch.randn(1, 3, *side))).all()


def test_heads_must_divide_keys_and_values() -> None:
    problems = models.check_options("augmented_resnet26_small", {"num_heads": 8, "dk": 44})
    assert [str(problem) for problem in problems] == [
        "dk: got 44; num_heads (8) divides it. Use 40, or a num_heads that divides 44.",
        "dv: got 4; num_heads (8) divides it. Use 8, or a num_heads that divides 4.",
    ]
