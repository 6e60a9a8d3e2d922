"""Evaluation of trained networks on a split of a dataset, by the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator.cli.main import app
from orchestrator.data import prepare_dataset
from orchestrator.data.conversion.prepare import prepare
from orchestrator.errors import CheckpointError, ConfigError, DataError
from orchestrator.inference.evaluate import evaluate_checkpoint
from tests.support.tiny_archives import photo_tree
from tests.support.training_pieces import few_digits, make_trial, run

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a network on some of the digits for two epochs."""
    folder = tmp_path_factory.mktemp("trained")
    run(make_trial(few_digits(folder), folder, epochs=2))
    return folder / "best.pt"


def test_the_command_agrees_with_a_count_by_hand(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare("digits", None, str(tmp_path / "digits"))
    monkeypatch.chdir(tmp_path)
    found = {}
    for dataset in ("digits", str(tmp_path / "digits")):
        command = ["eval", str(checkpoint), "--dataset", dataset, "--json"]
        found[dataset] = json.loads(CliRunner().invoke(app, command, catch_exceptions=False).output)
    first, second = found.values()
    assert first == second
    assert first["images"] == 360

    import torch

    from orchestrator import load_model
    from orchestrator.data import PixelImages, open_dataset

    model = load_model(checkpoint)
    test = open_dataset(prepare_dataset("digits", tmp_path / "again")).splits["test"]
    assert isinstance(test, PixelImages)
    pixels = torch.tensor(test.images) / 255
    mean, std = (torch.tensor(numbers).view(1, -1, 1, 1) for numbers in (model.pixel_mean, model.pixel_std))
    with torch.no_grad():
        hits = model((pixels - mean) / std).argmax(1) == torch.tensor(test.labels)
    assert first["top1"] == pytest.approx(float(hits.float().mean()), abs=1e-6)
    assert first["top5"] >= first["top1"] > 0.3


def test_classes_and_splits_that_do_not_fit_are_reported(checkpoint: Path, tmp_path: Path) -> None:
    prepare("folder", photo_tree(tmp_path), str(tmp_path / "photos"))
    with pytest.raises(CheckpointError, match=r"its 10 classes are not the 3 of"):
        evaluate_checkpoint(checkpoint, str(tmp_path / "photos"))
    with pytest.raises(DataError, match=r"digits: has no split 'tets'\. Did you mean 'test'"):
        evaluate_checkpoint(checkpoint, "digits", split="tets", datasets_folder=tmp_path)
    with pytest.raises(CheckpointError, match="neither a checkpoint file nor"):
        evaluate_checkpoint(tmp_path / "gone.pt", "digits")
    with pytest.raises(ConfigError, match=r"tta: got 'vflip', which is none\. Did you mean 'hflip'"):
        evaluate_checkpoint(checkpoint, "digits", tta="vflip")
