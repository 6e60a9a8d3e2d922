"""Detectors over timm's ResNet against those that torchvision builds over its own."""

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models.detection import FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.ops.feature_pyramid_network import LastLevelP6P7
from torchvision.ops.misc import FrozenBatchNorm2d

from models.backbones import BackboneSettings
from models.detection import create_detector
from tests.models.detection.scenes import scenes

CHANNELS, HIDDEN, CLASSES = 16, 32, 3
SHALLOW = BackboneSettings(name="resnet18", options={"layers": (1, 1, 1, 1)}, norm="frozen", frozen_stages=1)
SIZES: dict[str, Any] = {"min_size": 64, "max_size": 96}


def torchvision_backbone(*, one_stage: bool) -> BackboneWithFPN:
    resnet = ResNet(BasicBlock, [1, 1, 1, 1], norm_layer=FrozenBatchNorm2d)
    for name, parameter in resnet.named_parameters():
        parameter.requires_grad_(not name.startswith(("conv1", "bn1", "layer1")))
    stages = (2, 3, 4) if one_stage else (1, 2, 3, 4)
    return BackboneWithFPN(
        resnet,
        {f"layer{stage}": str(index) for index, stage in enumerate(stages)},
        [32 * 2**stage for stage in stages],
        CHANNELS,
        extra_blocks=LastLevelP6P7(CHANNELS, CHANNELS) if one_stage else None,
    )


def torchvision_detector(name: str) -> nn.Module:
    backbone = torchvision_backbone(one_stage=name == "retinanet")
    if name == "retinanet":
        return RetinaNet(backbone, CLASSES + 1, **SIZES)
    heads = {
        "box_head": TwoMLPHead(CHANNELS * 49, HIDDEN),
        "box_predictor": FastRCNNPredictor(HIDDEN, CLASSES + 1),
    }
    if name == "faster_rcnn":
        return FasterRCNN(backbone, **heads, **SIZES)
    heads |= {
        "mask_head": MaskRCNNHeads(CHANNELS, (HIDDEN,) * 4, 1),
        "mask_predictor": MaskRCNNPredictor(HIDDEN, HIDDEN, CLASSES + 1),
    }
    return MaskRCNN(backbone, **heads, **SIZES)


@pytest.mark.parametrize("name", ["faster_rcnn", "mask_rcnn", "retinanet"])
def test_losses_gradients_and_detections_are_those_of_torchvision(name: str) -> None:
    """Copy the weights of torchvision's detector under its own names."""
    theirs = torchvision_detector(name).double()
    ours = create_detector(
        name, SHALLOW, CLASSES, fpn_channels=CHANNELS, head_channels=HIDDEN, mask_channels=HIDDEN, **SIZES
    ).double()
    ours.load_state_dict(theirs.state_dict())
    losses, gradients = [], []
    for network in (ours, theirs):
        torch.manual_seed(0)
        images, targets = scenes(torch.double)
        found = network(images, targets)
        sum(found.values()).backward()
        losses.append({key: float(loss.detach()) for key, loss in found.items()})
        gradients.append({key: p.grad for key, p in network.named_parameters() if p.requires_grad})
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    assert gradients[0].keys() == gradients[1].keys()
    for key, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][key], rtol=1e-9, atol=1e-12)
    with torch.no_grad():
        detections = [network.eval()(scenes(torch.double)[0]) for network in (ours, theirs)]
    for one, other in zip(*detections, strict=True):
        for key, value in other.items():
            torch.testing.assert_close(one[key], value)


def test_bytes_are_pixels_and_images_may_keep_their_size() -> None:
    build = partial(create_detector, "faster_rcnn", SHALLOW, CLASSES, fpn_channels=8, head_channels=8)
    network = build(min_size=None).eval()
    batch, _ = network.transform([torch.full((3, 50, 70), 255, dtype=torch.uint8), torch.ones(3, 20, 90)])
    assert batch.image_sizes == [(50, 70), (20, 90)] and batch.tensors.shape == (2, 3, 64, 96)
    torch.testing.assert_close(batch.tensors[0, :, :20, :70], batch.tensors[1, :, :20, :70])
    fixed, _ = build(fixed_size=(64, 32)).transform([torch.rand(3, 50, 70)])
    assert fixed.image_sizes == [(64, 32)]


def test_crowds_are_no_targets_in_training_and_class_maps_follow_their_image() -> None:
    network = create_detector("faster_rcnn", SHALLOW, CLASSES, fpn_channels=8, head_channels=8, min_size=32)
    images, targets = scenes()
    crowd = {**targets[0], "iscrowd": torch.tensor([0, 1])}
    _, kept = network.transform(images[:1], [copy.copy(crowd)])
    assert kept[0]["labels"].tolist() == [1] and kept[0]["masks"].shape == (1, 32, 48)
    assert kept[0]["class_map"].shape == (32, 48)
    assert torch.equal(kept[0]["class_map"][::4, ::4], targets[0]["class_map"][::8, ::8].long())
    _, all_of_them = network.eval().transform(images[:1], [crowd])
    assert all_of_them[0]["labels"].tolist() == [1, 3]


def test_boxes_are_pooled_by_the_reductions_of_the_levels() -> None:
    """Pool columns 0 to 8 of cells of 4 px, whose indices are their values; torchvision would take them for 8 px."""
    network: Any = create_detector("faster_rcnn", SHALLOW, CLASSES, fpn_channels=1, head_channels=8, min_size=None)
    batch, _ = network.eval().transform([torch.rand(3, 44, 44)])
    assert batch.tensors.shape[-2:] == (64, 64)
    features = {str(level): torch.zeros(1, 1, 16 // 2**level, 16 // 2**level) for level in range(4)}
    features["0"] += torch.arange(16.0)
    pooled = network.roi_heads.box_roi_pool(features, [torch.tensor([[0.0, 0.0, 32.0, 32.0]])], batch.image_sizes)
    assert float(pooled.mean()) == pytest.approx(4, abs=0.1)
