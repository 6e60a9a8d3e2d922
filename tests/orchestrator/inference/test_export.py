"""Export of networks: equal outputs, frozen windows, and no file left where an export fails."""

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
    """Create an untrained network for the digits."""
    torch.manual_seed(0)
    network = models.create_model(name, num_classes=10, in_chans=1, image_size=8, **options).eval()
    return TrainedNetwork(
        network=with_preprocessing(network, 8), label="known", name=name, options=options, epoch=1, checkpoint_bytes=0
    )


def with_preprocessing(network: torch.nn.Module, side: int) -> torch.nn.Module:
    """Set the attributes that a checkpoint gives a network."""
    facts = {"class_names": tuple("0123456789"), "pixel_mean": (0.3,), "pixel_std": (0.4,), "trained_image_size": side}
    for key, value in facts.items():
        setattr(network, key, value)
    return network


def adaptive(tables: float = 1.0) -> TrainedNetwork:
    """Create a network whose heads have different spans, with most attention outside of them."""
    torch.manual_seed(0)
    network = AdaptiveSpanResNet(
        depths=(1,), widths=(16,), strides=(2,), num_heads=4, max_span=5, ramp=1.0, in_chans=1, num_classes=10
    ).eval()
    with torch.no_grad():
        attention = network.stages[0][0].spatial
        attention.span.copy_(SPANS)
        attention.rel_h.mul_(tables)
        attention.rel_w.mul_(tables)
    return dataclasses.replace(known_network("conv_resnet26_small", {}), network=with_preprocessing(network, 8))


@pytest.fixture(scope="module")
def images() -> NetworkImages:
    torch.manual_seed(1)
    pixels = torch.rand(6, 1, 8, 8)
    labels = torch.zeros(6, dtype=torch.long)
    return NetworkImages((pixels - 0.3) / 0.4, pixels, labels, tuple(range(6)), "noise", "test")


@pytest.mark.parametrize("to", FORMATS)
def test_spans_are_frozen_with_a_window_per_head(to: str, images: NetworkImages, tmp_path: Path) -> None:
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
    written = path.read_bytes()
    assert str(ROOT).encode() not in written  # paths of this machine are private, and so are the images of the check
    assert images.inputs[0].numpy().tobytes() not in written
    assert b".partial" not in written
    with torch.no_grad():
        expected = known.network(images.inputs[:1])
    torch.testing.assert_close(FORMATS[to].load(path)(images.inputs[:1]), expected, rtol=0, atol=1e-5)
    assert all(torch.equal(value, before[key]) for key, value in known.network.state_dict().items())


@pytest.mark.parametrize("family", ["fcvit", "lesa", "lsas", "spatial_bias_with_nonlocal"])
def test_other_families_are_exported_unchanged(family: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = TINY[family]().eval()
    known = dataclasses.replace(known_network("conv_resnet26_small", {}), network=with_preprocessing(network, SIDE))
    inputs = torch.randn(3, 3, SIDE, SIDE)
    seen = NetworkImages(inputs, inputs, torch.zeros(3), (0, 1, 2), "noise", "test")
    found = export_network(known, seen, format_name="torch-export", path=tmp_path / "n.pt2", timed_batch=2)
    assert found.windows == ()
    assert found.uncut_bytes is None
    assert found.batch is None
    assert found.difference <= 1e-5


def test_a_file_with_different_outputs_is_not_kept(
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


def test_a_failed_export_names_the_reason(
    images: NetworkImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: object, **__: object) -> None:
        raise RuntimeError("no such operator\nand so on")

    monkeypatch.setattr(FORMATS["onnx"], "write", refuses)
    with pytest.raises(ExportError, match=r"cannot be exported \(RuntimeError: no such operator\)"):
        export_network(known_network("conv_resnet26_small", {}), images, format_name="onnx", path=tmp_path / "n.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_fixed_batch_size_is_reported(images: NetworkImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = FORMATS["torch-export"].write

    def only_fixed(*arguments: Any, any_batch: bool, **options: Any) -> None:
        if any_batch:
            raise RuntimeError("a dimension that is no symbol")
        write(*arguments, any_batch=any_batch, **options)

    monkeypatch.setattr(FORMATS["torch-export"], "write", only_fixed)
    known = known_network("conv_resnet26_small", {})
    found = export_network(known, images, format_name="torch-export", path=tmp_path / "n.pt2")
    assert found.batch == found.timed_batch == found.images == 6


def test_windows_are_frozen_per_layer_where_a_window_per_head_changes_outputs(images: NetworkImages) -> None:
    known = adaptive(tables=50.0)  # the attention within the spans is small against the epsilon of the mask
    _, windows, note = export_module._frozen(known.network, images.inputs)
    assert windows == (((11, 4),),)
    assert note.startswith("one window for all heads in layer 0: ")


def test_an_invalid_target_or_format_is_reported_before_any_work(
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
    metadata = json.loads(
        {prop.key: prop.value for prop in onnx.load("trial-best.onnx").metadata_props}["spatialsweep"]
    )
    assert metadata["class_names"] == list("0123456789")
    assert metadata["image_size"] == 8
    (given,) = onnxruntime.InferenceSession("trial-best.onnx").get_inputs()
    assert given.shape[1:] == [1, 8, 8]
