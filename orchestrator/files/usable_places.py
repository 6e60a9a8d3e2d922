"""Check of the folders that a sweep is to write to, before it starts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from orchestrator.errors import ConfigError, Problem
from orchestrator.files.sqlite_files import sqlite_path


def require_usable_places(runs_dir: Path, study_uri: str) -> None:
    """Check that the folder of results can be made or written to, and that the database of the studies has a folder.

    Args:
        runs_dir: Folder of all results.
        study_uri: Database of the Optuna studies; one on a server passes.

    Raises:
        ConfigError: One of the two cannot be used.
    """
    if problems := [*_faults_of_runs_dir(runs_dir), *_faults_of_database(runs_dir, study_uri)]:
        raise ConfigError(problems)


def _faults_of_runs_dir(runs_dir: Path) -> Iterator[Problem]:
    nearest = next(path for path in (runs_dir, *runs_dir.parents) if os.path.lexists(path))
    if not nearest.is_dir():
        yield Problem("runs_dir", f"{runs_dir} cannot be a folder, since {nearest} is none. Choose another folder")
    elif not os.access(nearest, os.W_OK | os.X_OK):
        yield Problem("runs_dir", f"{nearest} cannot be written to. Choose another folder, or change its permissions")


def _faults_of_database(runs_dir: Path, study_uri: str) -> Iterator[Problem]:
    path = sqlite_path(study_uri)
    if path is None or path.parent == runs_dir:  # which is created with the sweep
        return
    if not path.parent.is_dir():
        yield Problem("storage.uri", f"{study_uri}: no folder {path.parent}. Make it, or name another database")
