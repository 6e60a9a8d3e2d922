"""Explanation of the backbones of detectors and networks of segmentation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models.detection import build_detector
from models.segmentation import build_segmentor
from orchestrator.errors import ExplainError
from orchestrator.inference.explain import explain_network
from orchestrator.inference.explain.backbones import _most_covered, class_scores, with_predicted_classes
from orchestrator.inference.explain.compared import comparisons
from orchestrator.inference.explain.subject import Subject, batch_of, block_of, stage_of
from orchestrator.inference.images import NetworkImages
from orchestrator.inference.trained_network import TrainedNetwork
from tests.support.tasks.point_task import PointTask

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE = {"num_classes": 3, "in_chans": 3, "image_size": 32}


def known_network(task: str, name: str, **options: Any) -> TrainedNetwork:
    """Create an untrained network of a task."""
    torch.manual_seed(0)
    given = {"fpn_channels": 8, "head_channels": 8, **options}
    if task == "segmentation":
        network: Any = build_segmentor(name, given, **SHAPE).eval()
    else:
        network = build_detector(name, {**given, "anchor_scale": 2.0, "proposals": 20}, masks=False, **SHAPE).eval()
    network.class_names, network.task = ("cat", "dog", "owl"), task
    return TrainedNetwork(
        network=network, label="known", name=name, options=given, epoch=1, checkpoint_bytes=0, task=task
    )


@pytest.fixture(scope="module")
def images() -> NetworkImages:
    torch.manual_seed(1)
    pixels = torch.rand(3, 3, 32, 32)
    return NetworkImages((pixels - 0.5) / 0.3, pixels, torch.full((3,), -1), (0, 1, 2), "noise", "test")


@pytest.mark.parametrize(
    ("task", "name", "topic", "picture"),
    [
        ("segmentation", "adaptive_resnet26_small", "adaptive_span", "spans.png"),
        ("detection", "sb_resnet29_cifar", "spatial_bias", "bias_channels.png"),
    ],
)
def test_layers_of_a_backbone_are_explained(
    task: str, name: str, topic: str, picture: str, images: NetworkImages, tmp_path: Path
) -> None:
    options = {"max_span": 3, "num_heads": 4} if "adaptive" in name else {}
    known = known_network(task, name, **options)
    before = {key: value.clone() for key, value in known.network.state_dict().items()}
    found = explain_network(known, images, tmp_path, drawn=1)
    assert {"grad_cam.png", picture} <= {path.name for path in found.pictures}
    table = json.loads((tmp_path / "explain.json").read_text())
    assert table["grad_cam"]["layer"].startswith("backbone.body.model.stages.")
    assert (table["grad_cam"]["images"], table["grad_cam"]["without_class"]) == (3, 0)
    assert "top1" not in table["grad_cam"]
    assert table["regions"] == "none"
    layers = table[topic].get("layers", table[topic])
    assert all(layer.startswith("backbone.body.model.stages.") for layer in layers)
    assert all(torch.equal(value, before[key]) for key, value in known.network.state_dict().items())


def test_a_class_of_a_detector_has_its_best_score(images: NetworkImages) -> None:
    known = known_network("detection", "conv_resnet26_small")
    inputs = images.inputs.clone().requires_grad_()
    scores = class_scores(known)(inputs)
    for row, found in zip(scores, known.network(list(images.inputs)), strict=True):
        for label in (1, 2, 3):
            of_class = found["scores"][found["labels"] == label]
            assert float(row[label - 1].detach()) == float(of_class.max() if len(of_class) else 0)
    scores.amax(1).sum().backward()
    assert inputs.grad is not None
    assert inputs.grad.abs().amax((1, 2, 3)).gt(0).all()
    seen = with_predicted_classes(known, images)
    assert torch.equal(seen.labels, scores.argmax(1))
    network: Any = known.network
    network.roi_heads.score_thresh = 2.0
    nothing = with_predicted_classes(known, images)
    assert nothing.labels.tolist() == [-1, -1, -1]
    subject = Subject(known.network, "", nothing, Path(), forward=class_scores(known))
    assert len(subject.with_class().images.inputs) == 0


def test_a_class_of_a_map_has_the_mean_of_its_logits(images: NetworkImages) -> None:
    known = known_network("segmentation", "conv_resnet26_small")
    with torch.no_grad():
        found, logits = class_scores(known)(images.inputs), known.network(images.inputs)
    for row, maps in zip(found, logits, strict=True):
        predicted = maps.argmax(0)
        for label in range(3):
            inside = maps[label][predicted == label]
            expected = float(inside.mean()) if len(inside) else 0.0
            assert float(row[label]) == pytest.approx(expected, abs=1e-5)


def test_the_explained_class_is_the_largest_without_the_background() -> None:
    pixels: Tensor = torch.tensor([[90, 8, 2], [70, 0, 30], [100, 0, 0], [10, 80, 10]])
    assert _most_covered(pixels).tolist() == [1, 2, 0, 1]


def test_what_needs_labels_is_refused(images: NetworkImages, tmp_path: Path) -> None:
    known = known_network("segmentation", "conv_resnet26_small")
    message = r"its task is segmentation; --compare and --regions are for classifiers\. Without them its layers"
    with pytest.raises(ExplainError, match=message):
        explain_network(known, images, tmp_path / "out", compare=comparisons(["test_vit"], []))
    with pytest.raises(ExplainError, match=message):
        explain_network(known, images, tmp_path / "out", regions=torch.ones(3, 32, 32, dtype=torch.bool))
    assert not (tmp_path / "out").exists()


def test_a_task_without_a_backbone_is_refused(
    images: NetworkImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orchestrator.config.tasks import registry

    monkeypatch.setitem(registry._FACTS, "points", PointTask.facts)
    known = known_network("segmentation", "conv_resnet26_small")
    strange = TrainedNetwork(known.network, "known", known.name, {}, 1, 0, task="points")
    with pytest.raises(ExplainError, match="its task is points; the pictures explain classifiers, and the backbones"):
        explain_network(strange, images, tmp_path)


def test_names_of_layers_in_backbones_have_stages() -> None:
    assert [stage_of(name) for name in ("stages.2.1.conv", "backbone.body.model.stages.3.0", "stages_1.4", "stem")] == [
        2, 3, 1, None,
    ]  # fmt: skip
    assert [block_of(name) for name in ("stages.2.1.conv", "backbone.body.model.stages.3", "stem.0")] == [
        "2.1", "backbone.body.model.stages.3", "stem.0",
    ]  # fmt: skip
    assert [batch_of(torch.zeros(2, 3, side, side)) for side in (32, 224, 512, 2048)] == [32, 32, 10, 1]
