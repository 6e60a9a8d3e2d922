"""Layers that read the whole map leave padding out: the covered part is that of the cropped map alone."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from models.adaptive_span.augmented_attention import AugmentedConv
from models.backbones import create_backbone
from models.common.channel_attention import CHANNEL_ATTENTIONS, ChannelGate
from models.common.non_local import NonLocal
from models.detection import create_detector
from models.fcvit.context import ChannelAttention, GlobalContext
from models.fcvit.mixers import SelfAttentionMixer
from models.lesa.binary_term import BinaryTerm
from models.padding import MapNorm, Padding, PaddingRecord, WholeMapLayer, share_padding
from models.spatial_bias.bias import SpatialBias, append_bias

CHANNELS, MAP = 16, (8, 12)
EXTENTS = [(8, 12), (5, 12), (6, 7)]
RECORD_SIZES, PADDED = [(32, 48), (20, 48), (24, 28)], (32, 48)  # a reduction of 4


class BiasedMap(nn.Module):
    """Spatial bias appended to the map that it reads."""

    def __init__(self, **given: Any) -> None:
        super().__init__()
        self.bias = SpatialBias(CHANNELS, bias_channels=2, key_size=3, pooled_size=3, **given)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return append_bias(x, self.bias(x), self.bias.padding_of_batch)


def context(**given: bool) -> nn.Module:
    return GlobalContext(CHANNELS, num_heads=4, gc_reduction=4, **{"similarity": True, "competition": True, **given})


def binary(position_embedding: str) -> nn.Module:
    return BinaryTerm(CHANNELS, map_size=MAP, groups=2, position_embedding=position_embedding)


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "norm": lambda: MapNorm(1, CHANNELS),
    "context": context,
    "plain context": lambda: context(similarity=False),
    "channel attention": ChannelAttention,
    "mixer": lambda: SelfAttentionMixer(CHANNELS, num_heads=2),
    "bias": BiasedMap,
    "linear bias": lambda: BiasedMap(mixing="linear"),
    "non-local": lambda: NonLocal(CHANNELS),
    "pooled non-local": lambda: NonLocal(CHANNELS, pool_keys=True),
    "lesa rows and columns": lambda: binary("detection"),
    "lesa without positions": lambda: binary("none"),
    "augmented": lambda: AugmentedConv(CHANNELS, dk=8, dv=8, num_heads=2, kernel_size=1, relative=True),
    **{
        attention: (lambda name=attention: ChannelGate(CHANNELS, attention=name, reduction=4))
        for attention in CHANNEL_ATTENTIONS
        if attention != "cbam"
    },
}


def randomised(make: Callable[[], nn.Module]) -> nn.Module:
    layer = make().double().eval()
    with torch.no_grad():
        for tensor in (*layer.parameters(), *layer.buffers()):
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor))
    return layer


@pytest.mark.parametrize("name", LAYERS)
def test_the_covered_part_is_that_of_the_cropped_map(name: str) -> None:
    """Forward and backward, whatever is in the padding."""
    layer, record = randomised(LAYERS[name]), PaddingRecord()
    record.set(RECORD_SIZES, PADDED)
    x = torch.randn(3, CHANNELS, *MAP, dtype=torch.double)
    crops = [x[i : i + 1, :, :h, :w].clone().requires_grad_() for i, (h, w) in enumerate(EXTENTS)]
    expected = [layer(crop) for crop in crops]
    probes = [torch.randn_like(y) for y in expected]
    wanted = torch.autograd.grad(expected, [*crops, *layer.parameters()], probes, allow_unused=True)
    assert share_padding(layer, record) >= 1
    for content in (0.0, 50.0):
        padded = torch.full_like(x, content)
        for i, (h, w) in enumerate(EXTENTS):
            padded[i, :, :h, :w] = x[i, :, :h, :w]
        padded.requires_grad_()
        y = layer(padded)
        parts = [y[i : i + 1, :, :h, :w] for i, (h, w) in enumerate(EXTENTS)]
        for part, alone in zip(parts, expected, strict=True):
            torch.testing.assert_close(part, alone)
        found, *of_parameters = torch.autograd.grad(parts, [padded, *layer.parameters()], probes, allow_unused=True)
        for i, (h, w) in enumerate(EXTENTS):
            torch.testing.assert_close(found[i : i + 1, :, :h, :w], wanted[i])
        for one, other in zip(of_parameters, wanted[3:], strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                torch.testing.assert_close(one, other)


def test_cbam_leaves_padding_out_of_its_channel_half() -> None:
    layer, record = randomised(lambda: ChannelGate(CHANNELS, attention="cbam", reduction=4)), PaddingRecord()
    x = torch.randn(3, CHANNELS, *MAP, dtype=torch.double)
    expected = [layer.host(x[i : i + 1, :, :h, :w]) for i, (h, w) in enumerate(EXTENTS)]
    record.set(RECORD_SIZES, PADDED)
    share_padding(layer, record)
    torch.testing.assert_close(layer.host(x), torch.cat(expected))


def test_a_batch_without_padding_is_computed_as_ever() -> None:
    record = PaddingRecord()
    record.set([PADDED, PADDED], PADDED)
    assert record.current is None
    norm = MapNorm(1, 4)
    share_padding(norm, record)
    x = torch.randn(2, 4, 8, 12)
    assert torch.equal(norm(x), nn.functional.group_norm(x, 1, norm.weight, norm.bias))


@pytest.mark.parametrize("name", ["context", "plain context", "channel attention", "se", "srm", "norm"])
def test_maps_with_more_positions_than_float16_counts(name: str) -> None:
    torch.manual_seed(0)
    layer = LAYERS[name]().train()
    record = PaddingRecord()
    record.set([(280, 300), (300, 290)], (300, 300))
    share_padding(layer, record)
    x = torch.rand(2, CHANNELS, 300, 300)
    with torch.no_grad():
        expected = layer(x)
        with torch.autocast("cpu", torch.float16):
            found = layer(x.half())
    torch.testing.assert_close(found.float(), expected, rtol=2e-2, atol=2e-2)


def test_extents_are_rounded_up_to_cells() -> None:
    padding = Padding(((17, 32), (32, 1)), (32, 32))
    assert padding.extents(torch.empty(2, 1, 8, 8)) == [(5, 8), (8, 1)]
    assert padding.mask(torch.empty(2, 1, 8, 8)).sum((1, 2, 3)).tolist() == [40, 8]


def test_the_padding_of_another_batch_is_forgotten() -> None:
    maps = create_backbone("fcvit_micro_cifar").eval()
    assert any(isinstance(module, WholeMapLayer) for module in maps.body.modules())
    maps.padding.set([(16, 32), (32, 16)], (32, 32))
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        padded = maps(x)
        assert maps.padding.current is not None
        one = maps(x[:1])
        assert maps.padding.current is None
        assert not torch.allclose(one[-1], padded[-1][:1])


def test_an_image_is_detected_alike_beside_a_larger_one() -> None:
    """Only the reach of convolutions over the border differs; without the record the context does as well."""
    small, large = torch.rand(3, 64, 64), torch.rand(3, 64, 256)
    distances = []
    for mask_padding in (True, False):
        torch.manual_seed(0)
        network = create_detector(
            "faster_rcnn",
            "fcvit_micro_cifar",
            3,
            fpn_channels=8,
            head_channels=8,
            mask_padding=mask_padding,
            min_size=None,
        ).eval()
        maps = []
        for images in ([small], [small, large]):
            batch, _ = network.transform(images)
            with torch.no_grad():
                maps.append(super(type(network.backbone), network.backbone).forward(batch.tensors)[-1][0, :, :4, :4])
        distances.append(float((maps[0] - maps[1]).abs().max()))
    assert distances[0] < 0.2 * distances[1]
