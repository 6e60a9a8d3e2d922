"""Weights of the network that `explain --compare` compares with a trial's."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch

from orchestrator.errors import CheckpointError
from orchestrator.inference.explain.compared import Comparison, comparisons, load_compared
from tests.support.networks.random_images import noise

NAME = "test_vit"


class Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str, int]]:
        return os.mkdir, (str(self.marker), 0o700)


def test_the_weights_of_a_file_are_loaded(tmp_path: Path) -> None:
    expected = timm.create_model(NAME).state_dict()
    torch.save(expected, tmp_path / "vit.pth")
    (found,) = load_compared([Comparison(NAME, str(tmp_path / "vit.pth"))], noise(1, channels=3, side=8), 10)
    assert all(torch.equal(expected[name], value) for name, value in found.network.state_dict().items())
    assert (found.label, found.weights) == (NAME, "vit.pth")
    both = [Comparison(NAME, str(tmp_path / "vit.pth")), Comparison(NAME)]
    labels = [network.label for network in load_compared(both, noise(1, channels=3, side=8), 10)]
    assert labels == [f"{NAME} (vit.pth)", f"{NAME} (untrained)"]


@pytest.mark.parametrize("wrap", [lambda payload: payload, lambda payload: {"state_dict": payload}])
def test_code_in_a_file_of_weights_is_not_run(tmp_path: Path, wrap: object) -> None:
    content = wrap(Payload(tmp_path / "ran"))
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(content))
    torch.save(content, tmp_path / "torch.pth")
    (tmp_path / "empty.pth").touch()
    for name in ("plain.pth", "torch.pth", "empty.pth"):
        with pytest.raises(CheckpointError, match=f"--compare {NAME}: cannot be built") as caught:
            load_compared([Comparison(NAME, str(tmp_path / name))], noise(1, channels=3, side=8), 10)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["vit.pth", "vit.safetensors", "vit.npz"])
@pytest.mark.parametrize(
    "content",
    [b"", b"words", b"PK\x03\x04" + bytes(40), b"\xff" * 64, bytes(64)],
    ids=["empty", "words", "zip", "ones", "zeros"],
)
def test_a_damaged_file_of_weights_is_one_line(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"--compare {NAME}: cannot be built") as caught:
        load_compared([Comparison(NAME, str(tmp_path / name))], noise(1, channels=3, side=8), 10)
    assert "\n" not in str(caught.value)


def test_weights_of_another_size_decide_on_the_network(tmp_path: Path) -> None:
    small = timm.create_model(NAME, num_classes=10, in_chans=1, img_size=8, patch_size=2)
    torch.save(small.state_dict(), tmp_path / "digits.pth")
    images = noise(2, channels=1, side=8)
    (found,) = load_compared([Comparison(NAME, str(tmp_path / "digits.pth"))], images, 10)
    assert found.network.patch_embed.grid_size == (4, 4)
    assert torch.equal(found.inputs, images.inputs)  # one channel: as the network beside it
    assert all(torch.equal(small.state_dict()[name], value) for name, value in found.network.state_dict().items())


def test_images_of_trained_weights_are_resized_and_normalised_as_timm_says(tmp_path: Path) -> None:
    torch.save(timm.create_model(NAME).state_dict(), tmp_path / "vit.pth")
    images = noise(1, channels=1, side=8)
    (found,) = load_compared([Comparison(NAME, str(tmp_path / "vit.pth"))], images, 10)
    config = found.network.default_cfg
    side = config["input_size"][-1]
    grey = torch.nn.functional.interpolate(images.pixels, (side, side), mode="bilinear", antialias=True)
    mean, std = (torch.tensor(config[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    torch.testing.assert_close(found.inputs, (grey - mean) / std)


def test_weights_belong_to_the_networks_in_their_order() -> None:
    assert comparisons([], []) == ()
    assert comparisons(["a", "b"], []) == (Comparison("a", "untrained"), Comparison("b", "untrained"))
    assert comparisons(["a", "b"], ["pretrained"]) == (Comparison("a", "pretrained"), Comparison("b", "pretrained"))
    assert comparisons(["a", "a"], ["x.pth", "untrained"]) == (Comparison("a", "x.pth"), Comparison("a", "untrained"))
    with pytest.raises(CheckpointError, match="--compare-checkpoint: got 1 for 2 of --compare"):
        comparisons(["a", "b"], ["x.pth"])
    with pytest.raises(CheckpointError, match="got 1 for 0 of --compare"):
        comparisons([], ["x.pth"])
    with pytest.raises(CheckpointError, match="--compare-checkpoint: got 1 for 0 of --compare"):
        comparisons([], ["untrained"])
    with pytest.raises(CheckpointError, match=r"--compare a: given twice with the same weights \(untrained\)"):
        comparisons(["a", "a"], [])


def test_pretrained_weights_that_cannot_be_reached_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match=r"its pretrained weights cannot be loaded .*give the file") as caught:
        load_compared([Comparison("vit_tiny_patch16_224", "pretrained")], noise(1, channels=3, side=8), 10)
    assert "\n" not in str(caught.value)
