"""Ten steps of torchvision's reference loop: our detectors over timm's ResNet-50 against torchvision's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.resnet import resnet50
from torchvision.ops.feature_pyramid_network import LastLevelP6P7
from torchvision.ops.misc import FrozenBatchNorm2d

from models.backbones import BackboneSettings
from models.detection import create_detector
from tests.models.detection.scenes import scenes

CHANNELS, HIDDEN, CLASSES, STEPS = 8, 16, 3, 10
SIZES: dict[str, Any] = {"min_size": 32, "max_size": 32}
WIDTH = 16  # of the blocks; a quarter, for speed
BACKBONE = BackboneSettings(name="resnet50", options={"base_width": WIDTH}, norm="frozen", frozen_stages=1)


def torchvision_detector(name: str) -> nn.Module:
    """Build a detector of torchvision with few channels, proposals and samples, and its first stage frozen."""
    one_stage = name == "retinanet"
    resnet = resnet50(norm_layer=FrozenBatchNorm2d, width_per_group=WIDTH)
    for block in (module for module in resnet.modules() if hasattr(module, "bn3")):
        block.bn3.weight.fill_(0.2)  # without statistics of their own the maps would grow from block to block
    for key, parameter in resnet.named_parameters():
        parameter.requires_grad_(not key.startswith(("conv1", "bn1", "layer1")))
    stages = (2, 3, 4) if one_stage else (1, 2, 3, 4)
    backbone = BackboneWithFPN(
        resnet,
        {f"layer{stage}": str(index) for index, stage in enumerate(stages)},
        [128 * 2**stage for stage in stages],
        CHANNELS,
        extra_blocks=LastLevelP6P7(CHANNELS, CHANNELS) if one_stage else None,
    )
    if one_stage:
        return RetinaNet(backbone, CLASSES + 1, **SIZES)
    few: dict[str, Any] = {f"rpn_{when}_nms_top_n_train": 30 for when in ("pre", "post")}
    few |= {"box_batch_size_per_image": 16, **SIZES}
    few |= {"box_head": TwoMLPHead(CHANNELS * 49, HIDDEN), "box_predictor": FastRCNNPredictor(HIDDEN, CLASSES + 1)}
    if name == "faster_rcnn":
        return FasterRCNN(backbone, **few)
    few |= {"mask_head": MaskRCNNHeads(CHANNELS, (HIDDEN,) * 4, 1)}
    return MaskRCNN(backbone, mask_predictor=MaskRCNNPredictor(HIDDEN, HIDDEN, CLASSES + 1), **few)


def train(network: nn.Module, total: Callable[[dict[str, Tensor]], Tensor]) -> list[dict[str, float]]:
    """Train as the reference script of torchvision does, SGD with a linear warm-up, and return the losses."""
    images, targets = scenes(torch.double)
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.02, momentum=0.9, weight_decay=1e-4)
    warm_up = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1e-3, total_iters=STEPS - 1)
    torch.manual_seed(0)
    history = []
    for _ in range(STEPS):
        losses = network(images, targets)
        loss = total(losses)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        warm_up.step()
        means = {key: each[0] / each[1] if each.numel() == 2 else each for key, each in losses.items()}
        history.append({key: float(mean.detach()) for key, mean in means.items()})
    return history


def sum_of_means(losses: dict[str, Tensor]) -> Tensor:
    total = sum(losses.values())
    assert isinstance(total, Tensor)
    return total


def sum_of_ratios(losses: dict[str, Tensor]) -> Tensor:
    return sum_of_means({key: pair[0] / pair[1] for key, pair in losses.items()})


@pytest.mark.parametrize(("name", "loss_sums"), [("faster_rcnn", False), ("mask_rcnn", True), ("retinanet", True)])
def test_ten_steps_have_the_losses_of_torchvision(name: str, loss_sums: bool) -> None:
    torch.manual_seed(0)
    theirs = torchvision_detector(name).double()
    ours = create_detector(
        name,
        BACKBONE,
        CLASSES,
        fpn_channels=CHANNELS,
        head_channels=HIDDEN,
        mask_channels=HIDDEN,
        proposals=(30, 1000),
        samples=16,
        loss_sums=loss_sums,
        **SIZES,
    ).double()
    ours.load_state_dict(theirs.state_dict())
    found = train(ours, sum_of_ratios if loss_sums else sum_of_means)
    expected = train(theirs, sum_of_means)
    assert expected[-1] != pytest.approx(expected[0], rel=1e-3)
    for step, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert one == pytest.approx(other, rel=1e-12, abs=0), step
