"""Log of a rank while it trains a trial, in the trial's folder."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from orchestrator.masked_output import MaskedFormatter
from orchestrator.records.folder.trial_folder import LOG_SUFFIX

_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


@contextmanager
def trial_log(folder: Path, rank: int) -> Iterator[logging.Logger]:
    """Write all log records and warnings of this process to `rank-<rank>.log` in the trial's folder as well.

    A trial that resumes, on any lane, appends to its logs. Where the file cannot be written, it trains without.

    Args:
        folder: Folder of the trial.
        rank: Rank of the calling worker.

    Yields:
        The logger for messages of the lane itself.
    """
    log, root = logging.getLogger("spatialsweep.trial"), logging.getLogger()
    log.setLevel(logging.INFO)
    handler = _handler(folder / f"rank-{rank}{LOG_SUFFIX}")
    root.addHandler(handler)
    logging.captureWarnings(True)
    try:
        yield log
    finally:
        logging.captureWarnings(False)
        root.removeHandler(handler)
        handler.close()


def format_metrics(metrics: Mapping[str, float]) -> str:
    """Format the most important metrics of an epoch for the log."""
    shown = {name: value for name, value in metrics.items() if name.startswith(("train/", "val/", "test/"))}
    return ", ".join(f"{name} {value:.4g}" for name, value in {**shown, **_with(metrics, "lr", "epoch_time_s")}.items())


def _with(metrics: Mapping[str, float], *names: str) -> dict[str, float]:
    return {name: metrics[name] for name in names if name in metrics}


def _handler(file: Path) -> logging.Handler:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.is_symlink():  # in a copied folder it may point to any file of this user
            raise OSError(f"{file} is a link")
        handler: logging.Handler = logging.FileHandler(file, encoding="utf-8")
    except OSError as error:
        logging.getLogger(__name__).warning("The trial's log cannot be written: %s", error)
        return logging.NullHandler()
    handler.setFormatter(MaskedFormatter(_FORMAT))
    return handler
