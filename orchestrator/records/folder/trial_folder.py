"""Where a trial keeps its checkpoints."""


def trial_folder(number: int) -> str:
    """Name of a trial's folder, by Optuna's number."""
    return f"trial-{number:05d}"
