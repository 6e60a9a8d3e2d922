"""Trained networks as files: equal outputs on real images, cut windows, and nothing left behind where that fails."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from typer.testing import CliRunner

import models
from models.adaptive_span.network import AdaptiveSpanResNet
from orchestrator.cli.main import app
from orchestrator.errors import ExportError
from orchestrator.inference.export import export as export_module
from orchestrator.inference.export import export_network
from orchestrator.inference.export.formats import FORMATS
from orchestrator.inference.images import NetworkImages
from orchestrator.inference.trained_network import TrainedNetwork
from tests.support.networks.tiny_networks import SIDE, TINY
from tests.support.training_pieces import few_digits, make_trial, run

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).resolve().parents[3]
SPANS = torch.tensor([0.0, 0.8, 0.0, 0.0])


def known_network(name: str, options: Mapping[str, Any]) -> TrainedNetwork:
    """A network for the digits that nobody trained."""
    torch.manual_seed(0)
    network = models.create_model(name, num_classes=10, in_chans=1, image_size=8, **options).eval()
    return TrainedNetwork(
        network=told(network, 8), label="known", name=name, options=options, epoch=1, checkpoint_bytes=0
    )


def told(network: torch.nn.Module, side: int) -> torch.nn.Module:
    """With what a checkpoint tells of its images."""
    facts = {"class_names": tuple("0123456789"), "pixel_mean": (0.3,), "pixel_std": (0.4,), "trained_image_size": side}
    for key, value in facts.items():
        setattr(network, key, value)
    return network


def adaptive(tables: float = 1.0) -> TrainedNetwork:
    """Of heads that see differently far, whose attention goes mostly to where they do not."""
    torch.manual_seed(0)
    network = AdaptiveSpanResNet(
        depths=(1,), widths=(16,), strides=(2,), num_heads=4, max_span=5, ramp=1.0, in_chans=1, num_classes=10
    ).eval()
    with torch.no_grad():
        attention = network.stages[0][0].spatial
        attention.span.copy_(SPANS)
        attention.rel_h.mul_(tables)
        attention.rel_w.mul_(tables)
    return dataclasses.replace(known_network("conv_resnet26_small", {}), network=told(network, 8))


@pytest.fixture(scope="module")
def images() -> NetworkImages:
    torch.manual_seed(1)
    pixels = torch.rand(6, 1, 8, 8)
    labels = torch.zeros(6, dtype=torch.long)
    return NetworkImages((pixels - 0.3) / 0.4, pixels, labels, tuple(range(6)), "noise", "test")


@pytest.mark.parametrize("to", FORMATS)
def test_spans_are_frozen_and_windows_cut_head_by_head(to: str, images: NetworkImages, tmp_path: Path) -> None:
    known = adaptive()
    before = {key: value.clone() for key, value in known.network.state_dict().items()}
    path = tmp_path / f"network{FORMATS[to].suffix}"
    found = export_network(known, images, format_name=to, path=path, timed_batch=2)
    assert found.windows == (((3, 3), (11, 1)),)
    assert found.difference <= 1e-5
    assert found.batch is None
    assert found.uncut_bytes is not None
    assert set(found.times_ms) == {"network", "uncut", "file"}
    assert not found.note
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert found.bytes == path.stat().st_size
    assert str(ROOT).encode() not in path.read_bytes()  # where the sources lie is nobody's business
    with torch.no_grad():
        expected = known.network(images.inputs[:1])
    torch.testing.assert_close(FORMATS[to].load(path)(images.inputs[:1]), expected, rtol=0, atol=1e-5)
    assert all(torch.equal(value, before[key]) for key, value in known.network.state_dict().items())


@pytest.mark.parametrize("family", ["fcvit", "lesa", "lsas", "spatial_bias_with_nonlocal"])
def test_other_families_are_exported_as_they_are(family: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = TINY[family]().eval()
    known = dataclasses.replace(known_network("conv_resnet26_small", {}), network=told(network, SIDE))
    inputs = torch.randn(3, 3, SIDE, SIDE)
    seen = NetworkImages(inputs, inputs, torch.zeros(3), (0, 1, 2), "noise", "test")
    found = export_network(known, seen, format_name="torch-export", path=tmp_path / "n.pt2", timed_batch=2)
    assert found.windows == ()
    assert found.uncut_bytes is None
    assert found.batch is None
    assert found.difference <= 1e-5


def test_a_file_of_other_outputs_is_not_kept(
    images: NetworkImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "network.pt2"
    path.write_bytes(b"the old file")
    monkeypatch.setattr(FORMATS["torch-export"], "write", lambda *_, **__: None)
    monkeypatch.setattr(FORMATS["torch-export"], "load", lambda _: lambda given: torch.ones(len(given), 10))
    known = known_network("conv_resnet26_small", {})
    with pytest.raises(ExportError, match=r"differs by .* more than 1e-05; nothing was written"):
        export_network(known, images, format_name="torch-export", path=path)
    assert path.read_bytes() == b"the old file"
    assert [file.name for file in tmp_path.iterdir()] == ["network.pt2"]


def test_an_exporter_that_fails_says_why(
    images: NetworkImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: object, **__: object) -> None:
        raise RuntimeError("no such operator\nand so on")

    monkeypatch.setattr(FORMATS["onnx"], "write", refuses)
    with pytest.raises(ExportError, match=r"cannot be exported \(RuntimeError: no such operator\)"):
        export_network(known_network("conv_resnet26_small", {}), images, format_name="onnx", path=tmp_path / "n.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_batch_that_cannot_vary_is_told(
    images: NetworkImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = FORMATS["torch-export"].write

    def only_fixed(*arguments: Any, any_batch: bool, **options: Any) -> None:
        if any_batch:
            raise RuntimeError("a dimension that is no symbol")
        write(*arguments, any_batch=any_batch, **options)

    monkeypatch.setattr(FORMATS["torch-export"], "write", only_fixed)
    known = known_network("conv_resnet26_small", {})
    found = export_network(known, images, format_name="torch-export", path=tmp_path / "n.pt2")
    assert found.batch == found.timed_batch == found.images == 6


def test_windows_are_cut_by_layer_where_cutting_by_head_tells(images: NetworkImages) -> None:
    known = adaptive(tables=50.0)  # of what is within the spans, next to nothing is left beside the epsilon of the mask
    _, windows, note = export_module._frozen(known.network, images.inputs)
    assert windows == (((11, 4),),)
    assert note.startswith("one window for all heads in layer 0: ")


def test_what_cannot_be_written_is_told_at_once(
    images: NetworkImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = known_network("conv_resnet26_small", {})
    (tmp_path / "file").write_bytes(b"")
    refused = {
        tmp_path: "is a folder; name a file",
        tmp_path / "n.pt2": r"a file of --format onnx ends in \.onnx",
        tmp_path / "file" / "n.onnx": "its folder cannot be made",
    }
    for path, why in refused.items():
        with pytest.raises(ExportError, match=why):
            export_network(known, images, format_name="onnx", path=path)
    with pytest.raises(ExportError, match="--format tensorflow: use onnx or torch-export"):
        export_network(known, images, format_name="tensorflow", path=tmp_path / "n")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name.startswith("onnx") else object())
    with pytest.raises(ExportError, match=r"needs onnx, onnxscript, onnxruntime. .*pip install 'spatialsweep\[onnx\]'"):
        export_network(known, images, format_name="onnx", path=tmp_path / "n.onnx")


def test_the_command_on_a_trained_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(make_trial(few_digits(tmp_path), tmp_path / "trial", epochs=1))
    monkeypatch.chdir(tmp_path)
    command = ["export", "trial/best.pt", "--format", "onnx", "--dataset", "digits", "--images", "20"]
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    assert done.exit_code == 0
    assert "trial-best.onnx: conv_resnet26_small, epoch 1 of trial-best; any number of images at once" in done.output
    assert "on 20 images" in done.output
    told = json.loads({prop.key: prop.value for prop in onnx.load("trial-best.onnx").metadata_props}["spatialsweep"])
    assert told["class_names"] == list("0123456789")
    assert told["image_size"] == 8
    (given,) = onnxruntime.InferenceSession("trial-best.onnx").get_inputs()
    assert given.shape[1:] == [1, 8, 8]
