"""Trained networks and the records of their training: by file, by sweep, by MLflow run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import models
from orchestrator.errors import CheckpointError, DataError
from orchestrator.inference.images import sample_images
from orchestrator.inference.load import load_model
from orchestrator.inference.trained_network import find_network
from orchestrator.records.ledger import TrialStatus
from orchestrator.training.checkpoints.checkpoint_file import save_checkpoint
from tests.support.sweeps.fake_sweeps import write_sweep

MODEL = {"name": "conv_resnet26_small", "options": {}, "num_classes": 10, "in_chans": 1, "image_size": 8}


def write_best(path: Path, *, epoch: int = 2) -> Path:
    network = models.create_model(MODEL["name"], num_classes=10, in_chans=1, image_size=8)
    data = {"pixel_mean": [0.3], "pixel_std": [0.4], "class_names": list("0123456789")}
    save_checkpoint(path, {"model": MODEL, "data": data, "state_dict": network.state_dict(), "epoch": epoch})
    return path


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a sweep of three trials, of which the first and the last have checkpoints."""
    folder = tmp_path_factory.mktemp("runs")
    trials = [
        (TrialStatus.FINISHED, [0.5, 0.7]),
        (TrialStatus.PRUNED, [0.1]),
        (TrialStatus.FINISHED, [0.6, 0.9]),
    ]
    sweep = write_sweep(folder, "pilot", trials)
    for number in (0, 2):
        write_best(sweep / "trials" / f"trial-{number:05d}" / "best.pt")
    return folder


def test_a_sweep_gives_its_best_trial_or_the_requested_one(runs_dir: Path) -> None:
    best = find_network("pilot", runs_dir=runs_dir)
    assert best.label == "pilot-trial-00002"
    assert (best.name, best.epoch, best.dataset["name"]) == ("conv_resnet26_small", 2, "digits")
    assert [report["val/top1"] for report in best.reports.values()] == [0.6, 0.9]
    assert list(best.reports) == [1, 2]
    assert find_network(runs_dir / "pilot", trial=0).label == "pilot-trial-00000"


def test_a_checkpoint_in_a_sweep_folder_has_the_records_of_its_trial(runs_dir: Path, tmp_path: Path) -> None:
    trial = runs_dir / "pilot" / "trials" / "trial-00000"
    found = find_network(trial / "best.pt")
    assert (found.label, found.reports[2]["val/top1"]) == ("pilot-trial-00000", 0.7)
    elsewhere = find_network(write_best(tmp_path / "copied.pt"), runs_dir=tmp_path)
    assert (elsewhere.label, elsewhere.dataset, elsewhere.run_id) == ("copied", {}, None)
    with pytest.raises(DataError, match=r"copied: the dataset of its training is unknown\. Name one with --dataset"):
        sample_images(elsewhere, None, split="test", count=3)
    images = sample_images(elsewhere, "digits", split="test", count=3)
    assert sorted(images.positions) == [0, 180, 359]
    assert images.inputs.shape == images.pixels.shape == (3, 1, 8, 8)
    torch.testing.assert_close(images.pixels, images.inputs * 0.4 + 0.3)


def test_a_sweep_in_place_of_a_checkpoint_is_answered_with_that_of_its_best_trial(runs_dir: Path) -> None:
    with pytest.raises(CheckpointError, match=r"but a sweep\. .* best trial, .*/pilot/trials/trial-00002/best\.pt$"):
        load_model(runs_dir / "pilot")


def test_a_missing_checkpoint_trial_or_sweep_is_reported(runs_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"trial 1 left no checkpoint. Trials with one: 0, 2$"):
        find_network("pilot", trial=1, runs_dir=runs_dir)
    with pytest.raises(CheckpointError, match="--trial 7: pilot has the trials 0-2"):
        find_network("pilot", trial=7, runs_dir=runs_dir)
    with pytest.raises(CheckpointError, match=r"pilott: neither a checkpoint file, .* Did you mean 'pilot'"):
        find_network("pilott", runs_dir=runs_dir)
    with pytest.raises(CheckpointError, match="is one trial already; name its sweep"):
        find_network(write_best(tmp_path / "best.pt"), trial=0)
