"""Boxes keep their place where a detector computes in a smaller floating-point type."""

import pytest
import torch

from models.detection import DETECTORS, create_detector
from tests.models.detection.scenes import SMALL, TINY, scenes


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", DETECTORS)
def test_boxes_and_losses_are_of_float32(name: str, precision: torch.dtype) -> None:
    torch.manual_seed(0)
    network = create_detector(name, TINY, 3, **{**SMALL, "min_size": None, "score_threshold": 0.0})
    narrow, targets = scenes()
    wide = torch.nn.functional.pad(narrow[0], (300, 0))  # beyond 256 px, where bfloat16 has even numbers alone
    target = {key: value for key, value in targets[0].items() if key not in ("boxes", "masks", "class_map")}
    target["boxes"] = targets[0]["boxes"] + torch.tensor([300, 0, 300, 0])
    for key in ("masks", "class_map"):
        target[key] = torch.nn.functional.pad(targets[0][key], (300, 0))
    with torch.autocast("cpu", precision):
        losses = network([wide], [target])
        found = network.eval()([wide])[0]
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    assert (found["boxes"].dtype, found["scores"].dtype) == (torch.float32, torch.float32)
    assert len(found["boxes"]) > 5
    assert not torch.equal(found["boxes"], found["boxes"].to(precision).float())
    assert float(found["boxes"].detach().max()) <= wide.shape[-1]


def test_anchors_do_not_depend_on_the_precision() -> None:
    network = create_detector("faster_rcnn", TINY, 3, **SMALL)
    images = network.transform([torch.rand(3, 64, 600)])[0]
    levels = list(network.backbone(images.tensors).values())
    usual = network.rpn.anchor_generator(images, levels)[0]
    small = network.rpn.anchor_generator(images, [level.bfloat16() for level in levels])[0]
    assert torch.equal(usual, small)
