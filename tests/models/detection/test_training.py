"""Every detector learns two images, reports impossible settings, and works over backbones of this package."""

import copy
from typing import Any

import pytest
import torch

from models.backbones import backbone_settings
from models.common.options import ModelOptionError
from models.detection import DETECTORS, create_detector
from models.detection.pyramid import PyramidBackbone
from tests.models.detection.scenes import SMALL, TINY, scenes


@pytest.mark.parametrize("name", DETECTORS)
def test_two_images_are_learnt(name: str) -> None:
    torch.manual_seed(0)
    network = create_detector(name, TINY, 3, **SMALL)
    images, targets = scenes()
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    totals = []
    for _ in range(12):
        loss = sum(network(images, targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        totals.append(float(loss.detach()))
    assert totals[-1] < 0.8 * totals[0]
    missing = [key for key, parameter in network.named_parameters() if parameter.grad is None]
    assert missing == []
    detections = network.eval()(images)
    for image, found in zip(images, detections, strict=True):
        keys = {"boxes", "labels", "scores"} | ({"masks"} if name not in ("faster_rcnn", "retinanet") else set())
        assert found.keys() == keys
        if "masks" in found:
            assert found["masks"].shape == (len(found["boxes"]), 1, *image.shape[1:])


def test_an_image_without_objects_has_losses_and_gradients() -> None:
    network = create_detector("htc", TINY, 3, **SMALL)
    images, targets = scenes()
    empty = {
        **targets[0],
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0, dtype=torch.long),
        "masks": torch.zeros(0, 64, 96),
    }
    for chosen in ([empty, targets[1]], [empty, {**empty, "class_map": targets[1]["class_map"]}]):
        losses = network(images, chosen)
        assert all(bool(torch.isfinite(loss)) for loss in losses.values())
        sum(losses.values()).backward()


@pytest.mark.parametrize("name", ["sb_resnet29_cifar", "lesa_resnet26_cifar", "fcvit_micro_cifar"])
def test_backbones_of_this_package_with_the_settings_of_their_authors(name: str) -> None:
    network = create_detector("mask_rcnn", backbone_settings(name, img_size=(96, 96)), 3, **SMALL)
    images, targets = scenes()
    sum(network(images, targets).values()).backward()
    twin = copy.deepcopy(network).eval()
    assert twin.transform.record is twin.backbone.padding and twin.backbone.padding is not network.backbone.padding
    assert len(twin(images)) == 2
    assert network.state_dict().keys() == twin.state_dict().keys()


def test_a_map_that_is_left_out_has_no_norm_of_its_own() -> None:
    """Processes that train together need a gradient of every parameter."""
    maps = PyramidBackbone(backbone_settings("fcvit_tiny"), fpn_channels=4, one_stage=True)
    levels = maps(torch.rand(2, 3, 32, 32))
    assert len(maps.channels) == 4 and [level.shape[-1] for level in levels.values()] == [4, 2, 1, 1, 1]
    sum(level.square().sum() for level in levels.values()).backward()
    assert [key for key, parameter in maps.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize(
    ("name", "num_classes", "settings", "words"),
    [
        ("mask_rcn", 3, {}, "Did you mean 'mask_rcnn'"),
        ("mask_rcnn", 0, {}, "without the background"),
        ("mask_rcnn", 3, {"fpn_channel": 8}, "Did you mean 'fpn_channels'"),
        ("mask_rcnn", 3, {"fpn_channels": 0}, "at least 1"),
        ("mask_rcnn", 3, {"anchor_scale": 0}, "above 0"),
        ("retinanet", 3, {"anchor_ratios": ()}, "above 0"),
        ("htc", 3, {"stages": ()}, "at least one stage"),
        ("htc", 3, {"samples": 0}, "samples is at least 1"),
        ("mask_rcnn", 3, {"style": "mmdetect"}, "Use 'mmdetection'"),
        ("faster_rcnn", 3, {"image_mean": (0.5,), "image_std": (0.5,)}, "3 channels"),
        ("faster_rcnn", 3, {"image_std": (0.5,)}, "image_mean has 3"),
    ],
)
def test_impossible_settings_are_named(name: str, num_classes: int, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelOptionError, match=words):
        create_detector(name, TINY, num_classes, **settings)


def test_masks_are_required_where_they_are_trained() -> None:
    network = create_detector("cascade_rcnn", TINY, 3, **SMALL)
    images, targets = scenes()
    for target in targets:
        del target["masks"]
    with pytest.raises(ModelOptionError, match="masks=False"):
        network(images, targets)
