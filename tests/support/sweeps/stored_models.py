"""Recorded sweep whose best checkpoints MLflow stores as models."""

from __future__ import annotations

from pathlib import Path

import torch
from mlflow import MlflowClient
from mlflow.entities import LoggedModel

from orchestrator.records.journal import Journal
from orchestrator.records.ledger import Ledger, TrialStatus
from orchestrator.server_addresses import embedded_uri
from orchestrator.training.checkpoints.checkpoint_file import save_checkpoint
from orchestrator.training.checkpoints.checkpoints import build_network
from tests.support.sweeps.fake_sweeps import write_sweep
from tests.support.sweeps.tracked_sweep import replay

NETWORK = {"name": "conv_resnet26_small", "options": {}, "num_classes": 10, "in_chans": 1, "image_size": 8}
DATA = {"pixel_mean": [0.5], "pixel_std": [0.25], "class_names": list("abcdefghij")}


class StoredModels:
    """Sweep of three trials, two of which have their best weights in MLflow as models."""

    def __init__(self, runs_dir: Path) -> None:
        finished = TrialStatus.FINISHED
        trials = [(finished, [0.5, 0.8, 0.7]), (finished, [0.6]), (finished, [0.1])]
        self.folder = write_sweep(runs_dir, "s", trials, tracking={"experiment": "tests"})
        self.uri = embedded_uri(runs_dir)
        self.client = MlflowClient(self.uri)
        for trial, epoch in ((0, 2), (1, 1)):
            self.save(trial, epoch)
            self.record("checkpoint_kept", trial)

    def best(self, trial: int) -> Path:
        return self.folder / "trials" / f"trial-{trial:05d}" / "best.pt"

    def save(self, trial: int, epoch: int) -> None:
        self.best(trial).parent.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(trial)
        metrics = {"val/top1": [0.5, 0.8, 0.7][epoch - 1], "train/loss": 1.0}
        weights = {"state_dict": build_network(NETWORK).state_dict(), "epoch": epoch, "metrics": metrics}
        save_checkpoint(self.best(trial), {"model": NETWORK, "data": DATA, **weights})

    def record(self, event: str, trial: int) -> None:
        with Journal(self.folder / "journal.jsonl") as journal:
            getattr(Ledger(journal), event)(trial, str(self.best(trial)))

    def replay(self) -> list[str]:
        """Export the journal to MLflow and return the runs of the trials."""
        writer = replay(self.folder / "journal.jsonl", self.uri)
        return [str(writer.run_id(number)) for number in range(3)]

    def models(self) -> list[LoggedModel]:
        experiments = [experiment.experiment_id for experiment in self.client.search_experiments()]
        return sorted(self.client.search_logged_models(experiments), key=lambda model: model.name)

    def checkpoints(self, run: str) -> list[str]:
        return [file.path for file in self.client.list_artifacts(run, "checkpoint")]
