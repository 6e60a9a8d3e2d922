"""Weights of the network that `explain --compare` compares with a trial's."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import timm
import torch

from orchestrator.errors import CheckpointError
from orchestrator.inference.explain.irrelevance import load_compared_vit
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
    network, _ = load_compared_vit(NAME, noise(1, channels=3, side=8), 10, tmp_path / "vit.pth")
    assert all(torch.equal(expected[name], value) for name, value in network.state_dict().items())


@pytest.mark.parametrize("wrap", [lambda payload: payload, lambda payload: {"state_dict": payload}])
def test_code_in_a_file_of_weights_is_not_run(tmp_path: Path, wrap: object) -> None:
    content = wrap(Payload(tmp_path / "ran"))
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(content))
    torch.save(content, tmp_path / "torch.pth")
    (tmp_path / "empty.pth").touch()
    for name in ("plain.pth", "torch.pth", "empty.pth"):
        with pytest.raises(CheckpointError, match=f"--compare {NAME}: cannot be built") as caught:
            load_compared_vit(NAME, noise(1, channels=3, side=8), 10, tmp_path / name)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()
