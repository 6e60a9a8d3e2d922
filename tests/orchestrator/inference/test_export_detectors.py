"""Export of detectors: the same detections, one image of one size, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow.pytorch
import onnx
import pytest
import torch
from torch import Tensor, nn

from models.detection import build_detector
from orchestrator.errors import ExportError
from orchestrator.inference.export import export_network
from orchestrator.inference.export.detectors import Agreement, agreement, detector_program
from orchestrator.inference.export.formats import FORMATS
from orchestrator.inference.images import NetworkImages
from orchestrator.inference.trained_network import TrainedNetwork
from orchestrator.tracking.model_folder import write_model_folder
from orchestrator.training.checkpoints.checkpoint_file import save_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).resolve().parents[3]
SIDE = 32
SMALL = {"fpn_channels": 8, "head_channels": 8, "anchor_scale": 2.0, "proposals": 20}
SHAPE = {"num_classes": 3, "in_chans": 3, "image_size": SIDE}
DATA: dict[str, Any] = {
    "class_names": ("cat", "dog", "owl"), "pixel_mean": (0.4, 0.5, 0.6), "pixel_std": (0.2, 0.3, 0.4),
}  # fmt: skip


def options_of(head: str) -> dict[str, Any]:
    options = {**SMALL, "head": head, **({"mask_channels": 8} if head == "mask_rcnn" else {})}
    return {key: options[key] for key in options if head != "retinanet" or key not in ("head_channels", "proposals")}


def detector(name: str, head: str) -> TrainedNetwork:
    """Create an untrained detector whose scores differ."""
    torch.manual_seed(0)
    options, masks = options_of(head), head == "mask_rcnn"
    network: Any = build_detector(name, options, masks=masks, **SHAPE).eval()
    if head == "retinanet":
        for layer in network.head.modules():  # its own weights are so small that all scores are equal
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
        nn.init.normal_(network.head.classification_head.cls_logits.weight, std=0.3)
    task = "instances" if masks else "detection"
    for key, value in {**DATA, "trained_image_size": SIDE, "task": task}.items():
        setattr(network, key, value)
    return TrainedNetwork(
        network=network, label="known", name=name, options=options, epoch=1, checkpoint_bytes=0, task=task,
        returns_tensor=False,
    )  # fmt: skip


def noise(height: int = SIDE, width: int = SIDE) -> NetworkImages:
    torch.manual_seed(1)
    inputs = torch.randn(2, 3, height, width)
    return NetworkImages(inputs, inputs, torch.full((2,), -1), (0, 1), "noise", "test")


@pytest.mark.parametrize(
    ("name", "head", "size"),
    [
        ("sb_resnet29_cifar", "faster_rcnn", (32, 32)),
        ("conv_resnet26_small", "retinanet", (24, 40)),
        ("conv_resnet26_small", "mask_rcnn", (32, 32)),
    ],
)
def test_a_file_detects_what_the_network_detects(name: str, head: str, size: tuple[int, int], tmp_path: Path) -> None:
    known, images, path = detector(name, head), noise(*size), tmp_path / "d.onnx"
    found = export_network(known, images, format_name="onnx", path=path)
    assert (found.input_px, found.batch) == (size, 1)
    assert found.detections is not None
    assert found.detections > 20
    assert found.difference < 1e-4
    assert not known.network.training
    metadata = json.loads({prop.key: prop.value for prop in onnx.load(path).metadata_props}["spatialsweep"])
    names = ["boxes", "labels", "scores", *(["masks"] if head == "mask_rcnn" else [])]
    assert (metadata["outputs"], metadata["input_px"]) == (names, list(size))
    assert metadata["class_names"] == ["cat", "dog", "owl"]
    assert str(ROOT).encode() not in path.read_bytes()
    with torch.no_grad():
        (expected,) = known.network([images.inputs[0]])
    by_score = FORMATS["onnx"].load_detector(path)(images.inputs[:1])
    torch.testing.assert_close(by_score[2], expected["scores"], rtol=1e-4, atol=1e-5)


def test_detections_are_compared_one_by_one() -> None:
    boxes = torch.tensor([[0.0, 0.0, 8.0, 8.0], [0.0, 0.0, 8.0, 8.0], [4.0, 4.0, 8.0, 8.0]])
    labels, scores = torch.tensor([1, 2, 1]), torch.tensor([0.9, 0.8, 0.7])
    masks = torch.zeros(3, 1, 16, 16)
    masks[:, :, :4, :5] = 1
    cut = masks.clone()
    cut[1, :, :4, 4] = 0
    order = torch.tensor([2, 0, 1])
    image = torch.zeros(1, 3, 16, 16)

    def compared(*other: Tensor, tolerance: float = 0.05) -> tuple[int, int, float, float]:
        found = agreement(lambda _: (boxes, labels, scores, masks), lambda _: other, image, tolerance=tolerance)
        return found.detections, found.alone, found.difference, found.overlap

    assert compared(boxes[order], labels[order], scores[order], masks[order]) == (3, 0, 0.0, 1.0)
    assert compared(boxes, labels, scores, cut) == (3, 2, 0.0, 1.0)  # its masks overlap by 16 of 20 pixels
    assert compared(boxes + 0.16, labels, scores, masks) == (3, 0, pytest.approx(0.01), 1.0)
    assert compared(boxes + 0.16, labels, scores, masks, tolerance=0.009) == (3, 6, 0.0, 1.0)
    assert compared(boxes, labels, scores - 0.02, masks)[2] == pytest.approx(0.02)
    assert compared(boxes, torch.tensor([1, 2, 2]), scores, masks)[1] == 2
    assert compared(boxes[:2], labels[:2], scores[:2], masks[:2])[1] == 1
    assert compared(boxes[:0], labels[:0], scores[:0], masks[:0])[1] == 3
    assert (Agreement(200, 2, 0.0, 1.0).holds, Agreement(199, 2, 0.0, 1.0).holds) == (True, False)


def test_what_cannot_be_exported_names_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = detector("conv_resnet26_small", "faster_rcnn")
    with pytest.raises(ExportError, match="--format torch-export: detectors are written as onnx alone"):
        export_network(known, noise(), format_name="torch-export", path=tmp_path / "d.pt2")
    network: Any = known.network
    network.roi_heads.score_thresh = 2.0
    with pytest.raises(ExportError, match="known: detects nothing on the 2 images"):
        export_network(known, noise(), format_name="onnx", path=tmp_path / "d.onnx")
    network.roi_heads.score_thresh = 0.05

    def refuses(*_: object, **__: object) -> None:
        raise RuntimeError("no such operator\nand so on")

    monkeypatch.setattr(FORMATS["onnx"], "write_detector", refuses)
    with pytest.raises(ExportError, match=r"this detector cannot be exported \(RuntimeError: no such operator\)"):
        export_network(known, noise(), format_name="onnx", path=tmp_path / "d.onnx")

    def moved(_: Path) -> Any:
        own = detector_program(network, ("boxes", "labels", "scores"))
        return lambda image: [own(image)[0] + 1, *own(image)[1:]]

    monkeypatch.setattr(FORMATS["onnx"], "write_detector", lambda *_, **__: None)
    monkeypatch.setattr(FORMATS["onnx"], "load_detector", moved)
    with pytest.raises(
        ExportError,
        match=r"of \d+ detections differ in the exported detector, by more than 0\.001 or.*nothing was written",
    ):
        export_network(known, noise(), format_name="onnx", path=tmp_path / "d.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_detector_in_mlflow_reads_pixels_of_images_of_any_size(tmp_path: Path) -> None:
    known = detector("conv_resnet26_small", "faster_rcnn")
    described: Mapping[str, Any] = {"name": known.name, "options": dict(known.options), **SHAPE, "task": "detection"}
    data = {key: list(value) for key, value in DATA.items()}
    content = {"model": described, "data": data, "state_dict": known.network.state_dict(), "epoch": 1}
    save_checkpoint(tmp_path / "best.pt", content)
    write_model_folder(tmp_path / "best.pt", tmp_path / "model")
    loaded = mlflow.pytorch.load_model(str(tmp_path / "model"))
    pixels = [torch.rand(3, 32, 48), torch.rand(3, 40, 32)]
    mean, std = (torch.tensor(DATA[key])[:, None, None] for key in ("pixel_mean", "pixel_std"))
    with torch.no_grad():
        found = loaded(pixels)
        expected = known.network([(image - mean) / std for image in pixels])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one["boxes"], other["boxes"])
        torch.testing.assert_close(one["scores"], other["scores"])
    assert mlflow.models.get_model_info(str(tmp_path / "model")).signature.inputs.inputs[0].shape == (-1, 3, -1, -1)
