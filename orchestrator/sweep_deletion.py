"""Takes a sweep away: its folder, its study, and its runs in MLflow."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import SweepNameError
from orchestrator.runs_dir import resolve_runs_dir
from orchestrator.stored_sweep import find_sweep, read_sweep, recorded_study_uri
from orchestrator.tracking.addresses import SQLITE, embedded_uri
from orchestrator.uris import without_password

if TYPE_CHECKING:
    from optuna.storages import BaseStorage


@dataclass(frozen=True)
class Deletion:
    """What there is of a sweep, and would go.

    Args:
        name: Of the sweep.
        folder: With journal, tables and checkpoints.
        files: In it.
        size_bytes: Of them.
        storage_uri: Database of the study; may hold a password.
        study_trials: Trials in the study; None when there is no study of that name.
        tracking_uri: MLflow; may hold a password.
        mlflow_runs: Ids of the runs to mark as deleted.
    """

    name: str
    folder: Path
    files: int
    size_bytes: int
    storage_uri: str
    study_trials: int | None
    tracking_uri: str
    mlflow_runs: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain data without passwords."""
        uris = {"storage_uri": without_password(self.storage_uri), "tracking_uri": without_password(self.tracking_uri)}
        return {**asdict(self), **uris, "folder": str(self.folder), "mlflow_runs": list(self.mlflow_runs)}


def plan_deletion(
    name: str,
    runs_dir: str | Path | None = None,
    *,
    keep_mlflow: bool = False,
    tracking_uri: str | None = None,
    storage_uri: str | None = None,
) -> Deletion:
    """Looks up what there is of a sweep; changes nothing.

    Args:
        name: Of the sweep, or its folder; also of a study whose sweep's folder is gone.
        runs_dir: Folder of all results; None takes the default.
        keep_mlflow: Leaves its MLflow runs alone.
        tracking_uri: MLflow, when it needs a password, which a sweep does not record; None takes what is recorded.
        storage_uri: Likewise, the database of the study.

    Raises:
        SweepNameError: There is no such sweep, or a driver is at work on it.
        TrackingError: MLflow does not answer.
        StorageError: The database of the study does not answer.
    """
    try:
        folder = find_sweep(name, runs_dir)
    except SweepNameError:
        orphan = _orphan(name, resolve_runs_dir(runs_dir), storage_uri)
        if orphan is None:
            raise
        return orphan
    sweep = read_sweep(folder)
    if folder.is_driven:
        raise SweepNameError(f"{sweep.name} is being run; end it first with Ctrl-C where it was started")
    files = [path for path in folder.path.rglob("*") if path.is_file() and not path.is_symlink()]
    storage_uri = storage_uri or sweep.result.storage_uri
    tracking_uri = tracking_uri or sweep.result.tracking_uri
    return Deletion(
        name=sweep.name,
        folder=folder.path,
        files=len(files),
        size_bytes=sum(path.stat().st_size for path in files),
        storage_uri=storage_uri,
        study_trials=_study_trials(sweep.name, storage_uri),
        tracking_uri=tracking_uri,
        mlflow_runs=() if keep_mlflow or not _exists(tracking_uri) else _runs(sweep.uid, tracking_uri),
    )


def delete_sweep(deletion: Deletion) -> None:
    """Takes away what was found; the folder goes last, so that a deletion that fails can be repeated."""
    from orchestrator.tracking.mlflow_deletion import delete_runs

    if deletion.mlflow_runs:
        delete_runs(deletion.mlflow_runs, deletion.tracking_uri)
    if deletion.study_trials is not None:
        _open(deletion.storage_uri).delete_study(_study_id(deletion.name, deletion.storage_uri))
    if deletion.folder.exists():
        shutil.rmtree(deletion.folder)


def _orphan(name: str, runs_dir: Path, storage_uri: str | None) -> Deletion | None:
    """What is left of a sweep whose folder is gone: its study, which keeps the name from being used again."""
    storage_uri, tracking_uri = storage_uri or recorded_study_uri({}, runs_dir), embedded_uri(runs_dir)
    trials = _study_trials(name, storage_uri)
    return None if trials is None else Deletion(name, runs_dir / name, 0, 0, storage_uri, trials, tracking_uri, ())


def _study_trials(name: str, uri: str) -> int | None:
    if not _exists(uri):
        return None
    try:
        return _open(uri).get_n_trials(_study_id(name, uri))
    except KeyError:
        return None


def _study_id(name: str, uri: str) -> int:
    return int(_open(uri).get_study_id_from_name(name))


def _open(uri: str) -> BaseStorage:
    from orchestrator.search.storage import open_storage, quieten

    quieten()
    return open_storage(uri, patience_s=5.0)


def _runs(uid: str, tracking_uri: str) -> tuple[str, ...]:
    from orchestrator.tracking.mlflow_runs import silence, sweep_runs

    silence()
    return tuple(sweep_runs(uid, tracking_uri))


def _exists(uri: str) -> bool:
    """Whether a database file is there; asking for one that is not would make it."""
    return not uri.startswith(SQLITE) or Path(uri.removeprefix(SQLITE)).exists()
