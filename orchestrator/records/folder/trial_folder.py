"""Layout of the folder of a trial: its name, its log files and its pictures."""

from pathlib import Path

LOG_SUFFIX = ".log"
PICTURES = "predictions"
"""Folder of pictures of predictions."""


def trial_folder(number: int) -> str:
    """Return the name of a trial's folder.

    Args:
        number: Optuna's number of the trial.
    """
    return f"trial-{number:05d}"


def trial_pictures(trials: Path, number: int) -> list[Path]:
    """Return the pictures of a trial's predictions, by name; none where none were drawn.

    Args:
        trials: Folder of the trials of a sweep.
        number: Optuna's number of the trial.
    """
    return sorted((trials / trial_folder(number) / PICTURES).glob("*.png"))
