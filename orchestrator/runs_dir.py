"""Where the results of all sweeps are kept."""

from __future__ import annotations

import os
from pathlib import Path


def resolve_runs_dir(configured: str | Path | None) -> Path:
    """Where results are kept: as configured, else `runs` here.

    Inside a Ray job the current folder is a copy that Ray deletes, so there the default lies in the home folder.
    """
    if configured:
        return Path(configured).expanduser().resolve()
    here = Path.cwd()
    if "runtime_resources" in here.parts or os.environ.get("RAY_JOB_SUBMISSION_ID"):
        return Path.home() / "spatialsweep" / "runs"
    return here / "runs"
