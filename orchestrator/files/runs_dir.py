"""Where the results of all sweeps are kept."""

from __future__ import annotations

import os
from pathlib import Path

from orchestrator.files.home_paths import expanded_path

_OF_A_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set by Ray for what a job starts, with a working directory and without


def resolve_runs_dir(configured: str | Path | None) -> Path:
    """Where results are kept: as configured, else `runs` here.

    Inside a Ray job the current folder is a copy that Ray deletes, so there the default lies in the home folder.
    """
    if configured:
        return expanded_path(configured).resolve()
    return Path.home() / "spatialsweep" / "runs" if inside_ray_job() else Path.cwd() / "runs"


def inside_ray_job() -> bool:
    """Whether this process was submitted to a cluster."""
    return _OF_A_JOB in os.environ or "runtime_resources" in Path.cwd().parts
