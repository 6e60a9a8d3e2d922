"""Folder of the results of all sweeps."""

from __future__ import annotations

import os
from pathlib import Path

from orchestrator.files.home_paths import expanded_path

_OF_A_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set by Ray for the processes of a job


def resolve_runs_dir(configured: str | Path | None) -> Path:
    """Return the folder of results: the configured one, else `runs` in the current folder.

    Inside a Ray job the current folder is a copy that Ray deletes, so there the default lies in the home folder.
    """
    if configured:
        return expanded_path(configured).resolve()
    return Path.home() / "spatialsweep" / "runs" if inside_ray_job() else Path.cwd() / "runs"


def inside_ray_job() -> bool:
    """Return whether this process belongs to a Ray job."""
    return _OF_A_JOB in os.environ or "runtime_resources" in Path.cwd().parts
