"""Deformable convolution against torchvision's, forward and backward."""

import pytest
import torch
from torchvision.ops import deform_conv2d

from models.lesa.attention import UnaryTerm
from models.lesa.deformable import DeformableConv


def randomised(**given: int) -> DeformableConv:
    conv = DeformableConv(8, 12, **given)
    with torch.no_grad():
        torch.nn.init.normal_(conv.offset.weight, std=0.5)
        torch.nn.init.normal_(conv.offset.bias, std=1.5)
    return conv.double()


@pytest.mark.parametrize(("kernel_size", "groups"), [(3, 1), (3, 4), (1, 2), (5, 2)])
@pytest.mark.parametrize("size", [(5, 7), (1, 1), (1, 6)])
def test_values_and_gradients_are_those_of_torchvision(kernel_size: int, groups: int, size: tuple[int, int]) -> None:
    """Move taps by pixels, across the border and beyond it."""
    conv = randomised(kernel_size=kernel_size, groups=groups)
    x = torch.randn(2, 8, *size, dtype=torch.double, requires_grad=True)
    y = conv(x)
    expected = deform_conv2d(x, conv.offset(x), conv.weight, padding=kernel_size // 2)
    torch.testing.assert_close(y, expected)
    probe, inputs = torch.randn_like(y), [x, *conv.parameters()]
    gradients = zip(torch.autograd.grad(y, inputs, probe), torch.autograd.grad(expected, inputs, probe), strict=True)
    for ours, theirs in gradients:
        torch.testing.assert_close(ours, theirs)


def test_taps_are_read_between_pixels() -> None:
    """Read 1, 2 and 3 of a row half a pixel to the right, with zero beyond its end."""
    conv = DeformableConv(1, 1, 1)
    with torch.no_grad():
        conv.weight.fill_(1.0)
        conv.offset.bias.copy_(torch.tensor([0.0, 0.5]))
        row = conv(torch.tensor([[[[1.0, 2.0, 3.0]]]]))
        torch.testing.assert_close(row, torch.tensor([[[[1.5, 2.5, 1.5]]]]))
        conv.offset.bias.copy_(torch.tensor([1.0, 0.0]))  # a row down
        assert not conv(torch.ones(1, 1, 1, 3)).any()


@pytest.mark.parametrize("groups", [1, 4])
def test_at_first_it_is_a_plain_convolution(groups: int) -> None:
    term = UnaryTerm(8, form="dcn", groups=groups)
    conv = term.convs[0]
    assert isinstance(conv, DeformableConv)
    x = torch.randn(2, 8, 5, 6, requires_grad=True)
    plain = torch.nn.functional.conv2d(x, conv.weight, padding=1, groups=groups)
    torch.testing.assert_close(conv(x), plain)
    term(x).square().sum().backward()
    assert all(bool(parameter.grad.any()) for parameter in conv.parameters() if parameter.grad is not None)
    assert conv.offset.weight.grad is not None


def test_positions_are_exact_in_narrow_types() -> None:
    """Compute positions in single precision: bfloat16 has not all pixels beyond 256."""
    conv = DeformableConv(4, 4, 3).bfloat16()
    x = torch.randn(1, 4, 1, 600).bfloat16()
    plain = torch.nn.functional.conv2d(x.float(), conv.weight.float(), padding=1)
    torch.testing.assert_close(conv(x).float(), plain, rtol=2e-2, atol=2e-2)
