"""Weights of classifiers in backbones: what is loaded, what is skipped, what is an error."""

import logging
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

import models
from models.backbones import BackboneSettings, create_backbone, load_backbone
from models.detection import create_detector
from models.segmentation import create_segmentor

LESA: dict[str, Any] = {"position_embedding": "detection", "groups": 4, "stages": "FFFT"}


def randomised(name: str, **options: Any) -> torch.nn.Module:
    network = timm.create_model(name, num_classes=7, **options)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor), alpha=0.02)
    return network


def test_a_classifier_under_net_and_module_goes_into_a_backbone(tmp_path: Path) -> None:
    """Load a file as the detection code of the authors leaves it: `net`, and `module.` ahead of every name."""
    network = randomised("lsas_resnet29_cifar").eval()
    path = tmp_path / "best.pth"
    torch.save({"net": {f"module.{key}": value for key, value in network.state_dict().items()}, "epoch": 3}, path)
    maps = create_backbone("lsas_resnet29_cifar").eval()
    result = load_backbone(maps, path)
    assert result.skipped == ("head.fc.weight", "head.fc.bias") and result.kept == ()
    assert len(result.loaded) == len(network.state_dict()) - 2
    x = torch.rand(1, 3, 32, 32)
    _, expected = network.forward_intermediates(x)
    for y, wanted in zip(maps(x), expected, strict=True):
        torch.testing.assert_close(y, wanted)


def test_networks_of_timm_are_loaded_under_their_own_names() -> None:
    for name in ("test_resnet", "test_convnext"):
        network = randomised(name).eval()
        maps = create_backbone(name).eval()
        result = load_backbone(maps, {"state_dict": network.state_dict()})
        assert result.kept == () and any("fc" in key for key in result.skipped)
        x = torch.rand(1, 3, 64, 64)
        torch.testing.assert_close(maps(x)[-1], network.forward_intermediates(x, intermediates_only=True)[-1])


def test_lesa_keeps_its_position_tables_and_the_offsets_of_its_deformable_convolutions(
    caplog: pytest.LogCaptureFixture,
) -> None:
    network = randomised("lesa_resnet26_cifar", img_size=32, **LESA)
    settings = {**LESA, "img_size": 64, "last_stride": 2, "lesa_before_stride": True, "deformable_stages": "FFFT"}
    maps = create_backbone(BackboneSettings(name="lesa_resnet26_cifar", options=settings))
    before = {key: value.clone() for key, value in maps.state_dict().items()}
    with caplog.at_level(logging.INFO):
        result = load_backbone(maps, network.state_dict())
    tables = [f"stages.3.{block}.spatial.binary.axial.rel_{axis}" for block in (0, 1) for axis in ("height", "width")]
    assert {*tables, "head.fc.weight", "head.fc.bias"} == set(result.skipped)
    offsets = [
        f"stages.3.{block}.spatial.unary.convs.0.offset.{part}" for block in (0, 1) for part in ("weight", "bias")
    ]
    assert {f"model.{key}" for key in tables + offsets} == set(result.kept)
    assert "rel_height" in caplog.text
    after, given = maps.state_dict(), network.state_dict()
    for key in tables + offsets:
        assert torch.equal(after[f"body.model.{key}"], before[f"body.model.{key}"])
    kernel = "stages.3.1.spatial.unary.convs.0.weight"
    assert torch.equal(after[f"body.model.{kernel}"], given[kernel])


@pytest.mark.parametrize("name", ["lsas_resnet29_cifar", "test_resnet"])
def test_the_backbone_of_another_network_with_a_head_is_loaded(name: str) -> None:
    """Load the backbone of a segmentation network into that of a detector; the rest of both has no part in it."""
    segmentor = create_segmentor("semantic_fpn", name, 3, fpn_channels=8, head_channels=8)
    with torch.no_grad():
        for tensor in segmentor.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor), alpha=0.02)
    given = segmentor.state_dict()
    detector = create_detector("faster_rcnn", name, 3, fpn_channels=8, head_channels=8)
    before = {key: value.clone() for key, value in detector.state_dict().items()}
    backbone: Any = detector.backbone
    result = load_backbone(backbone, given)
    body = {key for key in given if key.startswith("backbone.body.")}
    assert set(result.loaded) == body and result.kept == ()
    assert set(result.skipped) == set(given) - body
    for key, value in detector.state_dict().items():
        assert torch.equal(value, given[key] if key in body else before[key]), key
    faults = {
        "missing: backbone.body": {key: value for key, value in given.items() if key != sorted(body)[0]},
        "unexpected: backbone.body.other": {**given, "backbone.body.other": torch.zeros(1)},
        "wrong shape": {**given, sorted(body)[0]: torch.zeros(1, 2, 3)},
    }
    for words, content in faults.items():
        with pytest.raises(models.AuthorsCheckpointError, match=words):
            load_backbone(backbone, content)


def test_the_backbone_of_a_detector_of_torchvision_is_loaded() -> None:
    theirs = resnet_fpn_backbone(backbone_name="resnet18", weights=None, norm_layer=FrozenBatchNorm2d)
    given = {f"backbone.{key}": value for key, value in theirs.state_dict().items()}
    maps = create_backbone("resnet18")
    result = load_backbone(maps, {"model": given})
    assert result.kept == () and all(key.startswith("backbone.fpn.") for key in result.skipped)
    loaded = maps.body.state_dict()
    assert all(torch.equal(loaded[key.removeprefix("backbone.body.")], given[key]) for key in result.loaded)


def test_everything_else_is_strict_and_leaves_the_backbone_as_it_was() -> None:
    maps = create_backbone("lsas_resnet29_cifar")
    before = {key: value.clone() for key, value in maps.state_dict().items()}
    state = dict(randomised("lsas_resnet29_cifar").state_dict())
    broken = {
        "missing: stages.1.0": {key: value for key, value in state.items() if not key.startswith("stages.1.0.reduce")},
        "unexpected: stages.9": {**state, "stages.9.weight": torch.zeros(1)},
        "wrong shape": {**state, "stem.conv.weight": torch.zeros(16, 1, 3, 3)},
    }
    for words, content in broken.items():
        with pytest.raises(models.AuthorsCheckpointError, match=words):
            load_backbone(maps, content)
    for key, value in maps.state_dict().items():
        assert torch.equal(value, before[key])
