"""Detectors by flat options: what is built, counted and refused."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from models import ModelOptionError
from models.detection import build_detector, detection_options, detector_cost, detector_problems, training_shapes
from tests.models.detection.scenes import scenes

NAME = "conv_resnet26_small"
SHAPE: dict[str, Any] = {"num_classes": 3, "in_chans": 3, "image_size": 32}
NARROW: dict[str, Any] = {"fpn_channels": 8, "head_channels": 16, "anchor_scale": 4, "proposals": 10, "samples": 8}
CASES = [
    (False, {}),
    (False, {"head": "retinanet"}),
    (False, {"head": "cascade_rcnn"}),
    (True, {"mask_channels": 8}),
    (True, {"head": "cascade_rcnn", "mask_channels": 8}),
    (True, {"head": "htc", "mask_channels": 8}),
    (True, {"head": "htc", "mask_channels": 8, "semantic_classes": 4}),
]


def narrow(options: dict[str, Any]) -> dict[str, Any]:
    one_stage = options.get("head") == "retinanet"
    return {
        key: value for key, value in NARROW.items() if not one_stage or key in ("fpn_channels", "anchor_scale")
    } | options


@pytest.mark.parametrize(("masks", "options"), CASES)
def test_detectors_train_and_predict_and_are_counted(masks: bool, options: dict[str, Any]) -> None:
    options = narrow(options)
    network = build_detector(NAME, options, masks=masks, **SHAPE)
    images, targets = scenes()
    losses = network(images, targets)
    assert all(pair.shape == (2,) and pair[1] > 0 for pair in losses.values())
    assert ("loss_semantic" in losses) == ("semantic_classes" in options)
    found = network.eval()(images)
    assert all(("masks" in each) == masks for each in found)
    cost = detector_cost(NAME, options, masks=masks, **SHAPE)
    assert cost.params == sum(each.numel() for each in network.parameters())
    wider = detector_cost(NAME, {**options, "fpn_channels": 12}, masks=masks, **SHAPE)
    assert wider.macs > cost.macs > 0 and wider.params > cost.params
    shell = build_detector(NAME, options, masks=masks, **SHAPE).to("meta")
    outputs = training_shapes(shell, torch.zeros(2, 3, 32, 32, device="meta"))
    assert all(output.requires_grad for output in outputs)


@pytest.mark.parametrize("head", ["faster_rcnn", "retinanet", "cascade_rcnn"])
def test_shapes_keep_as_much_for_the_backward_pass_as_a_step(head: str) -> None:
    images, targets = scenes()
    images = [torch.rand(3, 64, 64) for _ in images]
    network = build_detector(
        NAME, narrow({"head": head, "fpn_channels": 32}), masks=False, **{**SHAPE, "num_classes": 20}
    )
    kept = [
        kept_bytes(network, lambda: network(images, targets)),
        kept_bytes(network, lambda: training_shapes(network, torch.stack(images))),
    ]
    assert kept[1] == pytest.approx(kept[0], rel=0.1)


def kept_bytes(network: torch.nn.Module, step: Callable[[], object]) -> int:
    kept: dict[int, torch.Tensor] = {each.untyped_storage()._cdata: each for each in network.parameters()}
    known = len(kept)

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        _ = step()
    return sum(each.untyped_storage().nbytes() for each in list(kept.values())[known:])


def test_options_reach_backbone_and_heads() -> None:
    options = {**NARROW, "anchor_ratios": "five", "frozen_stages": 1, "proposals": 30}
    network: Any = build_detector(NAME, options, masks=False, **SHAPE)
    assert network.rpn._post_nms_top_n == {"training": 60, "testing": 30}
    assert network.rpn.anchor_generator.aspect_ratios[0] == (1 / 3, 0.5, 1.0, 2.0, 3.0)
    assert network.roi_heads.fg_bg_sampler.batch_size_per_image == 8
    assert network.roi_heads.box_predictor.cls_score.weight.shape == (4, 16)
    frozen = [name for name, each in network.named_parameters() if not each.requires_grad]
    assert frozen and all(name.startswith("backbone.body.") for name in frozen)
    assert build_detector(NAME, {}, masks=True, **SHAPE).backbone.out_channels == 256
    assert detection_options(True)["head"].choices == ("mask_rcnn", "cascade_rcnn", "htc")


def test_images_are_taken_as_they_are_and_padded() -> None:
    network: Any = build_detector(NAME, narrow({"head": "retinanet"}), masks=False, **SHAPE)
    image = torch.randn(3, 40, 50)
    batch, _ = network.transform([image])
    assert batch.tensors.shape == (1, 3, 64, 64) and network.only_px is None
    assert torch.equal(batch.tensors[0, :, :40, :50], image)


def test_the_cost_is_that_of_the_boxes_of_evaluation() -> None:
    """Doubling the proposals adds the macs of the dense layers for as many boxes: 392 x 16 + 16 x 16 + 16 x 20."""
    costs = [detector_cost(NAME, {**NARROW, "proposals": count}, masks=False, **SHAPE) for count in (10, 20)]
    assert costs[1].macs - costs[0].macs == 10 * (8 * 49 * 16 + 16 * 16 + 16 * (4 + 16))
    assert costs[1].params == costs[0].params


@pytest.mark.parametrize("name", ["sb_resnet29_cifar", "adaptive_resnet26_small"])  # the second reads its spans
def test_a_cost_is_quick(name: str) -> None:
    started = time.process_time()
    detector_cost(name, {}, masks=True, num_classes=10, in_chans=3, image_size=224)
    assert time.process_time() - started < 1


@pytest.mark.parametrize("name", ["test_vit3", "lesa_resnet26_cifar"])
def test_a_network_built_for_one_size_gets_images_padded_to_it(name: str) -> None:
    options = narrow({"head": "retinanet"})
    network: Any = build_detector(name, options, masks=False, num_classes=3, in_chans=3, image_size=64).eval()
    assert network.only_px == 64
    with torch.no_grad():
        assert len(network([torch.rand(3, 20, 50)])) == 1


@pytest.mark.parametrize(
    ("name", "masks", "options", "option"),
    [
        (NAME, False, {"head": "mask_rcnn"}, "head"),
        (NAME, True, {"head": "faster_rcnn"}, "head"),
        (NAME, False, {"head_channels": 0}, "head_channels"),
        (NAME, False, {"head": "retinanet", "samples": 8}, "samples"),
        (NAME, False, {"head": "retinanet", "style": "mmdetection"}, "style"),
        (NAME, False, {"anchor_scale": 0}, "anchor_scale"),
        (NAME, False, {"anchor_ratios": "two"}, "anchor_ratios"),
        (NAME, False, {"mask_channels": 8}, "mask_channels"),
        (NAME, False, {"semantic_classes": 8}, "semantic_classes"),
        (NAME, True, {"semantic_classes": 8}, "semantic_classes"),
        (NAME, True, {"fpn_chanels": 8}, "fpn_chanels"),
        (NAME, True, {"frozen_stages": 4}, "frozen_stages"),  # it returns three maps
        ("conv_resnet27_small", True, {}, "name"),
    ],
)
def test_options_that_do_not_fit_are_named(name: str, masks: bool, options: dict[str, Any], option: str) -> None:
    assert [fault.option for fault in detector_problems(name, options, masks=masks, **SHAPE)] == [option]
    with pytest.raises(ModelOptionError):
        build_detector(name, options, masks=masks, **SHAPE)
