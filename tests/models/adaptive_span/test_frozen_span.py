"""Adaptive attention with frozen spans against the trained layer."""

from __future__ import annotations

import pytest
import torch

from models.adaptive_span.attention import AdaptiveAttention
from models.adaptive_span.frozen_span import FrozenSpanAttention, freeze_spans, heads_by_radius
from models.adaptive_span.network import AdaptiveSpanResNet
from models.common.resnet import SpatialResNet


def trained_layer(
    spans: list[float], *, max_span: int = 5, ramp: float = 1.0, heads: int | None = None, **options: bool
) -> AdaptiveAttention:
    torch.manual_seed(0)
    layer = AdaptiveAttention(
        16, num_heads=heads or len(spans), max_span=max_span, ramp=ramp, span_init=0.1, span_penalty=0.0, **options
    ).requires_grad_(False)
    layer.span.copy_(torch.tensor(spans))
    layer.qkv.weight.mul_(0.5)
    layer.rel_h.mul_(0.5)
    layer.rel_w.mul_(0.5)
    return layer


@pytest.mark.parametrize(
    ("radii", "groups"),
    [
        ([3, 3, 3, 3], [[0, 1, 2, 3]]),
        ([2, 5, 2, 2], [[0, 2, 3], [1]]),
        ([4, 5, 5, 5], [[0, 1, 2, 3]]),  # saves 40 of 484 entries
        ([5, 1, 3, 1], [[1, 3], [2], [0]]),
        ([2], [[0]]),
    ],
)
def test_heads_go_together_unless_much_is_saved(radii: list[int], groups: list[list[int]]) -> None:
    assert heads_by_radius(radii) == groups


@pytest.mark.parametrize("spans", [[0.0, 0.6, 0.0, 0.2], [0.8, 0.0], [0.1, 0.1], [1.0, 0.1, 0.1, 0.55]])
def test_a_frozen_layer_computes_what_the_trained_one_does(spans: list[float]) -> None:
    layer = trained_layer(spans)
    x = torch.randn(3, 16, 7, 6)
    torch.testing.assert_close(FrozenSpanAttention(layer)(x), layer(x), rtol=1e-5, atol=1e-6)
    assert torch.equal(FrozenSpanAttention(layer, by_head=False)(x), layer(x))


@pytest.mark.parametrize(
    ("spans", "options"),
    [
        ([0.0, 0.6, 0.0, 0.2], {"mask_before_softmax": True}),
        ([0.8, 0.0], {"scaled": True, "mask_before_softmax": True}),
        ([0.4], {"shared_span": True, "scaled": True}),
    ],
)
def test_a_frozen_layer_keeps_its_options(spans: list[float], options: dict[str, bool]) -> None:
    layer = trained_layer(spans, heads=4 if "shared_span" in options else None, **options)
    x = torch.randn(3, 16, 7, 6)
    torch.testing.assert_close(FrozenSpanAttention(layer)(x), layer(x), rtol=1e-5, atol=1e-6)
    assert torch.equal(FrozenSpanAttention(layer, by_head=False)(x), layer(x))


def test_a_window_reaches_the_last_ring_with_weight() -> None:
    layer = trained_layer([0.0, 0.59], max_span=5, ramp=1.0)  # z S + R = 1 and 3.95
    assert layer.head_radii() == [1, 4]
    mask = layer.ring_mask(5)
    assert (mask[0, 2:] == 0).all() and mask[0, 1] > 0
    assert (mask[1, 5:] == 0).all() and mask[1, 4] > 0
    frozen = FrozenSpanAttention(layer)
    assert (frozen.groups, frozen.radii) == ([[0], [1]], [1, 4])
    assert frozen.get_buffer("rel0").shape == (1, 2 * 3, 8)


def test_a_network_is_copied_and_others_are_left_as_they_are() -> None:
    torch.manual_seed(0)
    network = AdaptiveSpanResNet(depths=(1, 1), widths=(8, 16), strides=(2, 2), num_heads=2, num_classes=3).train()
    frozen = freeze_spans(network)
    assert not frozen.training
    assert network.training
    assert not any(isinstance(module, AdaptiveAttention) for module in frozen.modules())
    assert sum(isinstance(module, AdaptiveAttention) for module in network.modules()) == 2
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(frozen(images), network.eval()(images), rtol=1e-5, atol=1e-6)
    assert isinstance(frozen, SpatialResNet)
