"""LESA as a backbone: pooled first block, deformable stages, recomputed terms, smaller maps."""

from typing import Any

import pytest
import timm
import torch
from torch import nn
from torchvision.ops import deform_conv2d

from models.lesa.attention import LocallyEnhancedAttention
from models.lesa.binary_term import BinaryTerm
from models.lesa.deformable import DeformableConv

NAME = "lesa_resnet26_cifar"
SMALL: dict[str, Any] = {"img_size": 32, "last_stride": 2, "position_embedding": "detection", "stages": "FFFT"}


def network(**options: Any) -> Any:
    return timm.create_model(NAME, num_classes=3, **{**SMALL, **options}).eval()


@pytest.mark.parametrize("size", [32, (28, 20)])
def test_the_first_block_attends_ahead_of_the_stride_and_pools(size: Any) -> None:
    """Compose the block from its parts, on the map of the stage before it."""
    built = network(lesa_before_stride=True, img_size=size)
    block = built.stages[3][0]
    height, width = (size, size) if isinstance(size, int) else size
    x = torch.randn(2, 512, height // 4, width // 4)
    assert block.spatial.binary.map_size == x.shape[2:]
    with torch.no_grad():
        inner = block.reduce(x)
        unary, binary = block.spatial.unary(inner), block.spatial.binary(inner)
        fused = unary + block.spatial.fusion(unary, binary) * binary
        pooled = nn.functional.avg_pool2d(fused, 2, ceil_mode=True)
        expected = torch.relu(block.expand(torch.relu(pooled)) + block.shortcut(x))
        torch.testing.assert_close(block(x), expected)
        assert expected.shape[2:] == (-(-x.shape[2] // 2), -(-x.shape[3] // 2))
        assert built(torch.rand(1, 3, height, width)).shape == (1, 3)


def test_without_the_option_a_block_that_strides_keeps_its_convolution() -> None:
    kept, attending = network(), network(lesa_before_stride=True)
    assert not isinstance(kept.stages[3][0].spatial, LocallyEnhancedAttention)
    assert isinstance(attending.stages[3][0].spatial, LocallyEnhancedAttention)
    same_names = network(lesa_before_stride=True, last_stride=1).state_dict().keys()
    assert attending.state_dict().keys() == same_names


@pytest.mark.parametrize("size", [(6, 8), (5, 7)])
def test_a_deformable_convolution_strides_as_that_of_torchvision(size: tuple[int, int]) -> None:
    conv = DeformableConv(4, 6, 3, groups=2, stride=2).double()
    x = torch.randn(2, 4, *size, dtype=torch.double, requires_grad=True)
    torch.testing.assert_close(conv(x), nn.functional.conv2d(x, conv.weight, None, 2, 1, groups=2))
    nn.init.normal_(conv.offset.weight, std=0.5)
    y, expected = conv(x), deform_conv2d(x, conv.offset(x), conv.weight, stride=2, padding=1)
    torch.testing.assert_close(y, expected)
    probe, inputs = torch.randn_like(y), [x, *conv.parameters()]
    for one, other in zip(
        torch.autograd.grad(y, inputs, probe), torch.autograd.grad(expected, inputs, probe), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_deformable_stages_begin_as_plain_ones() -> None:
    plain, deformable = network(lesa_before_stride=True), network(lesa_before_stride=True, deformable_stages="FTTT")
    lacking = deformable.load_state_dict(plain.state_dict(), strict=False)
    assert not lacking.unexpected_keys and all(".offset." in key for key in lacking.missing_keys)
    deformed = [name for name, module in deformable.named_modules() if isinstance(module, DeformableConv)]
    assert [name.split(".")[1] for name in deformed] == ["1", "1", "2", "2", "3", "3"]
    x = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(deformable(x), plain(x), rtol=1e-4, atol=1e-5)


def test_terms_are_computed_again_with_the_same_gradients() -> None:
    results = []
    for recompute_terms in (False, True):
        torch.manual_seed(0)
        built = network(recompute_terms=recompute_terms, lesa_before_stride=True).train()
        for module in built.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        kept: list[torch.Size] = []

        def note(tensor: torch.Tensor, kept: list[torch.Size] = kept) -> torch.Tensor:
            kept.append(tensor.shape)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = built(torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))).square().sum()
        loss.backward()
        results.append((kept, {name: p.grad for name, p in built.named_parameters() if p.grad is not None}))
    (kept, gradients), (fewer, again) = results
    assert torch.Size([16, 64, 64]) in kept and torch.Size([16, 64, 64]) not in fewer  # the attention of the 8 x 8 map
    assert gradients.keys() == again.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(again[name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", [(4, 6), (2, 3), (1, 1)])
@pytest.mark.parametrize("training", [True, False])
def test_a_smaller_map_reads_the_middle_of_its_tables(size: tuple[int, int], training: bool) -> None:
    large = BinaryTerm(16, map_size=(4, 6), groups=2, position_embedding="detection").double()
    exact = BinaryTerm(16, map_size=size, groups=2, position_embedding="detection").double()
    state = large.state_dict()
    for axis, side, longest in (("height", size[0], 4), ("width", size[1], 6)):
        key = f"axial.rel_{axis}"
        state[key] = state[key][longest - side : longest + side - 1]
    exact.load_state_dict(state)
    x = torch.randn(3, 16, *size, dtype=torch.double)
    torch.testing.assert_close(large.train(training)(x), exact.train(training)(x))


@pytest.mark.parametrize(
    ("position_embedding", "size", "fits"),
    [
        ("classification", (4, 5), False),
        ("detection", (5, 5), False),
        ("detection", (4, 7), False),
        ("none", (9, 9), True),
    ],
)
def test_maps_beyond_the_tables_are_refused(position_embedding: str, size: tuple[int, int], fits: bool) -> None:
    term = BinaryTerm(16, map_size=(4, 6), groups=2, position_embedding=position_embedding)
    x = torch.randn(2, 16, *size)
    if fits:
        assert term(x).shape == x.shape
        return
    with pytest.raises(ValueError, match="img_size"):
        term(x)
