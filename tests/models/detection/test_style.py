"""The style of mmdetection: L1 losses of offsets, and pooling from the centres of the cells."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from models.detection import create_detector
from models.detection.absolute_losses import AbsoluteHeads, AbsoluteProposals
from models.detection.pooling import AlignedPool
from tests.models.detection.scenes import SMALL, TINY, scenes


def detector(name: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    return create_detector(name, TINY, 3, **{**SMALL, **changes})


def absolute(given: Tensor, wanted: Tensor, *, beta: float, reduction: str) -> Tensor:
    assert beta == 1 / 9
    return functional.l1_loss(given, wanted, reduction=reduction)


def test_losses_and_gradients_are_torchvisions_with_an_absolute_loss_of_offsets(monkeypatch: Any) -> None:
    images, targets = scenes()
    results = []
    for is_ours in (True, False):
        network = detector("mask_rcnn")
        if is_ours:
            network.rpn.__class__, network.roi_heads.__class__ = AbsoluteProposals, AbsoluteHeads
        else:
            monkeypatch.setattr(functional, "smooth_l1_loss", absolute)
        losses = network(images, targets)
        sum(losses.values()).backward()
        results.append((losses, {key: each.grad for key, each in network.named_parameters()}))
    (ours, gradients), (theirs, expected) = results
    assert ours.keys() == theirs.keys()
    for key, loss in ours.items():
        torch.testing.assert_close(loss, theirs[key])
    for key, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[key], rtol=1e-4, atol=1e-5)


def test_offsets_of_anchors_are_wrong_by_their_absolute_difference() -> None:
    """Two anchors are chosen, the positive one is wrong by 0.5 and 2: 2.5 over 2."""
    rpn = detector("faster_rcnn", style="mmdetection").rpn
    labels = [torch.tensor([1.0, 0.0, -1.0])]
    offsets = torch.tensor([[0.5, -2.0, 0.0, 0.0], [9.0, 9.0, 9.0, 9.0], [7.0, 7.0, 7.0, 7.0]])
    of_objects, of_offsets = rpn.compute_loss(torch.zeros(3, 1), offsets, labels, [torch.zeros(3, 4)])
    assert float(of_offsets) == pytest.approx(1.25) and float(of_objects) == pytest.approx(0.6931, abs=1e-4)


def test_features_are_pooled_from_the_centres_of_the_cells() -> None:
    """Cells of 4 px hold their index, at 2, 6, 10 px and so on: the mean from 8 to 36 px, at 22 px, is 5."""
    network = detector("mask_rcnn", style="mmdetection", fpn_channels=2)
    heads = network.roi_heads
    assert isinstance(heads.box_roi_pool, AlignedPool) and isinstance(heads.mask_roi_pool, AlignedPool)
    features = {str(level): torch.zeros(2, 2, 16 // 2**level, 16 // 2**level) for level in range(4)}
    features["0"][1] += torch.arange(16.0)
    features["0"].requires_grad_()
    boxes = [torch.zeros(0, 4), torch.tensor([[8.0, 8.0, 36.0, 36.0], [0.0, 0.0, 800.0, 800.0]])]
    pooled = heads.box_roi_pool(features, boxes, [(64, 64), (64, 64)])
    assert pooled.shape == (2, 2, 7, 7) and not bool(pooled[1].any())  # the second box is of the coarsest level
    torch.testing.assert_close(pooled[0, 0], torch.arange(2.0, 9.0).expand(7, 7))
    pooled.sum().backward()
    assert float(features["0"].grad[1].sum()) == pytest.approx(2 * 49)


@pytest.mark.parametrize("name", ["mask_rcnn", "htc"])
def test_detectors_train_and_detect_in_the_style_of_mmdetection(name: str) -> None:
    network = detector(name, style="mmdetection")
    images, targets = scenes()
    sum(network(images, targets).values()).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert [set(found) for found in network.eval()(images)] == [{"boxes", "labels", "scores", "masks"}] * 2
