"""Trained networks and what is known of them: by file, by sweep, by MLflow run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import models
from orchestrator.errors import CheckpointError, DataError
from orchestrator.inference.images import sample_images
from orchestrator.inference.trained_network import find_network
from orchestrator.records.ledger import TrialStatus
from orchestrator.training.checkpoints.checkpoint_file import save_checkpoint
from tests.support.fake_sweeps import tell_sweep

MODEL = {"name": "conv_resnet26_small", "options": {}, "num_classes": 10, "in_chans": 1, "image_size": 8}


def write_best(path: Path, *, epoch: int = 2) -> Path:
    network = models.create_model(MODEL["name"], num_classes=10, in_chans=1, image_size=8)
    data = {"pixel_mean": [0.3], "pixel_std": [0.4], "class_names": list("0123456789")}
    save_checkpoint(path, {"model": MODEL, "data": data, "state_dict": network.state_dict(), "epoch": epoch})
    return path


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of three trials, of which the first and the last left checkpoints."""
    folder = tmp_path_factory.mktemp("runs")
    trials = [
        (TrialStatus.FINISHED, [0.5, 0.7]),
        (TrialStatus.PRUNED, [0.1]),
        (TrialStatus.FINISHED, [0.6, 0.9]),
    ]
    sweep = tell_sweep(folder, "told", trials)
    for number in (0, 2):
        write_best(sweep / "trials" / f"trial-{number:05d}" / "best.pt")
    return folder


def test_a_sweep_gives_its_best_trial_or_the_one_asked_for(runs_dir: Path) -> None:
    best = find_network("told", runs_dir=runs_dir)
    assert best.label == "told-trial-00002"
    assert (best.name, best.epoch, best.dataset["name"]) == ("conv_resnet26_small", 2, "digits")
    assert [report["val/top1"] for report in best.reports.values()] == [0.6, 0.9]
    assert list(best.reports) == [1, 2]
    assert find_network(runs_dir / "told", trial=0).label == "told-trial-00000"


def test_a_checkpoint_of_a_sweep_is_known_by_its_place(runs_dir: Path, tmp_path: Path) -> None:
    trial = runs_dir / "told" / "trials" / "trial-00000"
    found = find_network(trial / "best.pt")
    assert (found.label, found.reports[2]["val/top1"]) == ("told-trial-00000", 0.7)
    elsewhere = find_network(write_best(tmp_path / "copied.pt"), runs_dir=tmp_path)
    assert (elsewhere.label, elsewhere.dataset, elsewhere.run_id) == ("copied", {}, None)
    with pytest.raises(DataError, match=r"copied: the dataset of its training is unknown\. Name one with --dataset"):
        sample_images(elsewhere, None, split="test", count=3)
    images = sample_images(elsewhere, "digits", split="test", count=3)
    assert sorted(images.positions) == [0, 180, 359]
    assert images.inputs.shape == images.pixels.shape == (3, 1, 8, 8)
    torch.testing.assert_close(images.pixels, images.inputs * 0.4 + 0.3)


def test_what_is_not_there_is_told(runs_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"trial 1 left no checkpoint. Trials with one: 0, 2$"):
        find_network("told", trial=1, runs_dir=runs_dir)
    with pytest.raises(CheckpointError, match="--trial 7: told has the trials 0-2"):
        find_network("told", trial=7, runs_dir=runs_dir)
    with pytest.raises(CheckpointError, match=r"tolled: neither a checkpoint file, .* Did you mean 'told'"):
        find_network("tolled", runs_dir=runs_dir)
    with pytest.raises(CheckpointError, match="is one trial already; name its sweep"):
        find_network(write_best(tmp_path / "best.pt"), trial=0)
