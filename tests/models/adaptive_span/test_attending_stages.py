"""Attention in chosen stages, 3x3 convolutions in the others."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import models
from models.adaptive_span.attention import AdaptiveAttention, LocalAttention


@pytest.mark.parametrize(("prefix", "layer"), [("adaptive", AdaptiveAttention), ("local", LocalAttention)])
def test_stages_without_the_flag_convolve(prefix: str, layer: type[nn.Module]) -> None:
    network = models.create_model(f"{prefix}_resnet26_small", num_classes=5, stages="FFT").eval()
    operators = [type(stage[0].spatial) for stage in network.stages]
    assert operators == [nn.Conv2d, nn.Conv2d, layer]
    every = models.create_model(f"{prefix}_resnet26_medium", stages="TTTT", num_classes=5)
    plain = models.create_model(f"{prefix}_resnet26_medium", num_classes=5)
    assert str(every) == str(plain)


@pytest.mark.parametrize("prefix", ["adaptive", "local"])
def test_without_any_flag_the_network_is_the_convolutional_control(prefix: str) -> None:
    conv = models.create_model("conv_resnet26_small", num_classes=5).eval()
    network = models.create_model(f"{prefix}_resnet26_small", num_classes=5, stages="FFF").eval()
    network.load_state_dict(conv.state_dict())
    images = torch.randn(2, 3, 9, 8)
    with torch.no_grad():
        assert torch.equal(network(images), conv(images))


def test_costs_of_a_hybrid_lie_between_those_of_its_operators() -> None:
    """Check: a 3x3 convolution has 9 C^2 weights, attention 3 C^2 and two tables of C / 2 times 33 entries."""
    conv = models.model_params("conv_resnet26_small", {}, num_classes=10, in_chans=3, image_size=32)
    found = models.model_params("adaptive_resnet26_small", {"stages": "FFT"}, num_classes=10, in_chans=3, image_size=32)
    heads = 4
    assert found - conv == -6 * 128**2 + 128 * 33 + heads
    shared = {"stages": "FFT", "shared_span": True}
    assert (
        found - models.model_params("adaptive_resnet26_small", shared, num_classes=10, in_chans=3, image_size=32) == 3
    )


def test_flags_are_one_per_stage_of_the_layout() -> None:
    (problem,) = models.check_options("adaptive_resnet26_small", {"stages": "FFFT"})
    assert str(problem).startswith("stages: got 'FFFT'; stages is a sequence of 3 bools, one per stage")
    assert models.check_options("local_resnet26_medium", {"stages": "FFFT"}) == []
