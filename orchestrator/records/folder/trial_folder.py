"""Layout of the folder of a trial: its name and its log files."""

LOG_SUFFIX = ".log"


def trial_folder(number: int) -> str:
    """Return the name of a trial's folder.

    Args:
        number: Optuna's number of the trial.
    """
    return f"trial-{number:05d}"
