"""Semantic FPN and UPerNet: shapes, gradients, schedules by hand, losses, training."""

import math
from typing import Any

import pytest
import torch
from torch.nn import functional

from models.backbones import BackboneSettings
from models.common.options import ModelOptionError
from models.segmentation import SEGMENTORS, SemanticFPNHead, UPerHead, create_segmentor

TINY = BackboneSettings(name="test_resnet")


def small(name: str, **changes: Any) -> Any:
    extra = {"fpn_channels": 16} if name == "semantic_fpn" else {}
    return create_segmentor(name, TINY, 3, **{"head_channels": 16, **extra, **changes})


@pytest.mark.parametrize("name", SEGMENTORS)
def test_two_images_are_learnt(name: str) -> None:
    torch.manual_seed(0)
    network = small(name)
    images, class_map = torch.full((2, 3, 64, 96), -1.0), torch.zeros(2, 64, 96, dtype=torch.uint8)
    for index, (rows, columns) in enumerate(((slice(8, 40), slice(8, 64)), (slice(20, 60), slice(40, 90)))):
        images[index, index, rows, columns], class_map[index, rows, columns] = 1.0, index + 1
    class_map[:, :4] = 255
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    totals = []
    for _ in range(12):
        losses = network(images, class_map)
        loss = sum(losses.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        totals.append(float(losses["loss_semantic"].detach()))
    assert totals[-1] < 0.6 * totals[0]
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert losses.keys() == {"loss_semantic"} | ({"loss_auxiliary"} if name == "upernet" else set())
    with torch.no_grad():
        odd = network.eval()(torch.rand(1, 3, 50, 70))
    assert odd.shape == (1, 3, 50, 70) and bool(torch.isfinite(odd).all())


@pytest.mark.parametrize(
    ("reductions", "finer", "convs"),
    [
        ((4, 8, 16, 32), [[], [0], [1, 0], [2, 1, 0]], [1, 1, 2, 3]),
        ((4, 8, 16, 16), [[], [0], [1, 0], [1, 0]], [1, 1, 2, 2]),
        ((1, 2, 4), [[], [0], [1, 0]], [1, 1, 2]),
        ((4, 4, 8), [[], [], [0]], [1, 1, 1]),
    ],
)
def test_levels_are_upsampled_step_by_step(
    reductions: tuple[int, ...], finer: list[list[int]], convs: list[int]
) -> None:
    """Apply a convolution for each time a level is halved, and resize to the next finer level behind it."""
    head = SemanticFPNHead([4] * len(reductions), reductions, 2, fpn_channels=8, head_channels=8).double().eval()
    assert [len(branch) for branch in head.branches] == convs
    maps = [torch.randn(2, 4, 64 // reduction, 32 // reduction, dtype=torch.double) for reduction in reductions]
    levels = list(head.fpn(dict(enumerate(maps))).values())
    total = torch.zeros(())
    for level, branch, targets in zip(levels, head.branches, finer, strict=True):
        x = level
        for place, conv in enumerate(branch):
            x = conv(x)
            if targets:
                size = maps[targets[place]].shape[-2:]
                x = functional.interpolate(x, size, mode="bilinear", align_corners=False)
        total = total + x
    torch.testing.assert_close(head(maps), head.classify(total))


def test_upernet_pools_goes_down_and_fuses() -> None:
    head = UPerHead([4, 6, 8], 2, head_channels=8, norm="groupnorm").double().eval()
    maps = [torch.randn(2, chs, side, side, dtype=torch.double) for chs, side in ((4, 16), (6, 8), (8, 7))]
    assert head.pooling.scales == (1, 2, 3, 6)

    def up(x: torch.Tensor, side: int) -> torch.Tensor:
        return functional.interpolate(x, (side, side), mode="bilinear", align_corners=False)

    grids = [
        up(project(functional.adaptive_avg_pool2d(maps[2], scale)), 7)
        for scale, project in zip((1, 2, 3, 6), head.pooling.projections, strict=True)
    ]
    top = head.pooling.fuse(torch.cat([maps[2], *grids], 1))
    middle = head.laterals[1](maps[1]) + up(top, 8)
    finest = head.laterals[0](maps[0]) + up(middle, 16)
    parts = [head.smooth[0](finest), up(head.smooth[1](middle), 16), up(top, 16)]
    torch.testing.assert_close(head(maps), head.classify(head.fuse(torch.cat(parts, 1))))


def test_losses_are_means_over_pixels_with_a_class() -> None:
    network = small("upernet").eval()
    images, ignored = torch.rand(2, 3, 32, 32), torch.full((2, 32, 32), 255)
    assert all(float(loss) == 0.0 for loss in map(torch.Tensor.detach, network(images, ignored).values()))
    with torch.no_grad():
        for head in (network.head, network.auxiliary):
            head.classify.weight.zero_()
            head.classify.bias.zero_()
    some = ignored.clone()
    some[0, 3:5, 7] = 1
    with torch.no_grad():
        losses = network(images, some)
    assert float(losses["loss_semantic"]) == pytest.approx(math.log(3))
    assert float(losses["loss_auxiliary"]) == pytest.approx(0.4 * math.log(3))


@pytest.mark.parametrize("name", SEGMENTORS)
def test_losses_are_computed_on_shapes_alone(name: str) -> None:
    with torch.device("meta"):
        losses = small(name)(torch.rand(2, 3, 32, 32), torch.zeros(2, 32, 32))
    assert all(loss.is_meta for loss in losses.values())


def test_defaults_are_those_of_the_papers() -> None:
    assert small("upernet", auxiliary=False).auxiliary is None
    assert small("semantic_fpn", auxiliary=True).auxiliary is not None
    head = create_segmentor("semantic_fpn", TINY, 150).head
    assert head.classify.in_channels == 128 and head.dropout.p == 0.1
    assert isinstance(head.branches[0][0][1], torch.nn.GroupNorm) and head.branches[0][0][1].num_groups == 32
    assert UPerHead([4, 4], 2).classify.in_channels == 512


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("upernett", {}, "Did you mean 'upernet'"),
        ("upernet", {"pool_scale": 1}, "Did you mean 'pool_scales'"),
        ("upernet", {"norm": "batchnorms"}, "Use 'batchnorm'"),
        ("semantic_fpn", {"fpn_channels": 0}, "at least 1"),
        ("semantic_fpn", {"dropout": 1.0}, "Use 0.1"),
    ],
)
def test_impossible_settings_are_named(name: str, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelOptionError, match=words):
        create_segmentor(name, TINY, 3, **settings)


def test_class_maps_fit_images_and_classes() -> None:
    network = small("semantic_fpn").eval()
    with pytest.raises(ModelOptionError, match="Resize class maps"):
        network(torch.rand(1, 3, 32, 32), torch.zeros(1, 16, 32))
    with pytest.raises(ModelOptionError, match="3 classes"):
        network(torch.rand(1, 3, 32, 32), torch.full((1, 32, 32), 3))
