"""Journal of a sweep of four trials, one of each outcome, and its export to MLflow."""

from __future__ import annotations

from pathlib import Path

from orchestrator.records.journal import Journal
from orchestrator.records.ledger import Ledger, TrialStatus
from orchestrator.tracking.mlflow_writer import MlflowWriter

CONFIG = {"name": "s", "dataset": {"name": "digits"}, "search": {"model": {"choices": ["a", "b"]}}, "model": None}
DATASET = {
    "name": "digits",
    "uri": "/data/digits",
    "content_hash": "36706e9c749a0738",
    "num_classes": 10,
    "class_names": list("0123456789"),
    "image_shape": [1, 8, 8],
    "splits": {"train": {"images": 1437}, "test": {"images": 360}},
}
REASON = "ValueError: odd\nTraceback ..."


def tell(path: Path, checkpoint: Path | None = None, *, ended: bool = True) -> None:
    """Write the journal of a whole sweep.

    Args:
        path: Path of the journal.
        checkpoint: Checkpoint of trial 0 to store; None for none.
        ended: Whether the sweep has ended.
    """
    with Journal(path) as journal:
        ledger = Ledger(journal)
        ledger.sweep_started("s-001", CONFIG, {"git.revision": "abc"}, {"seed": 0, "search space": "f" * 16})
        sweep_file = path.with_name("sweep.yaml")
        sweep_file.write_text("name: s\n")
        ledger.session_described([str(sweep_file)], DATASET)
        for number in range(4):
            trial = {"number": number, "model": {"name": "m", "options": {}}, "training": {"epochs": 2, "lr": 0.1}}
            ledger.trial_started(number, f"tune{number}", {"model": "m", "lr": 0.5 + number}, trial)
        for step in (50, 100):
            ledger.trial_progressed(0, 1, step, {"images_per_s": 800.0, "train_loss": 100.0 / step})
        for epoch in (1, 2):
            ledger.trial_reported(0, epoch, {"val/top1": 0.4 * epoch, "lr": 0.1, "train/loss": 1.0 / epoch})
        ledger.trial_reported(1, 1, {"val/top1": 0.1, "train/loss": float("nan")})
        ledger.trial_ended(0, TrialStatus.FINISHED, best={"val/top1": 0.8})
        ledger.trial_ended(1, TrialStatus.PRUNED)
        ledger.trial_ended(2, TrialStatus.FAILED, REASON)
        ledger.trial_ended(3, TrialStatus.INTERRUPTED, "the sweep was ended")
        if checkpoint is not None:
            ledger.checkpoint_kept(0, str(checkpoint))
        if ended:
            table = path.with_name("trials.parquet")
            table.write_bytes(b"rows")
            summary = {"trials_finished": 1, "best_trial": 0, "best_value": 0.8}
            ledger.sweep_ended(TrialStatus.INTERRUPTED, summary, [str(table)])


def replay(path: Path, uri: str, timeout_s: float = 200.0, *, artifacts: Path | None = None) -> MlflowWriter:
    """Export a journal to MLflow and wait until all of it has arrived."""
    writer = MlflowWriter(path, tracking_uri=uri, experiment="tests", artifacts=artifacts or path.parent / "artifacts")
    writer.start()
    writer.drain(timeout_s)
    return writer
