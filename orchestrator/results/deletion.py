"""Deletion of a sweep: its folder, its study, and its runs in MLflow."""

from __future__ import annotations

import contextlib
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import SweepNameError
from orchestrator.files.runs_dir import resolve_runs_dir
from orchestrator.files.sqlite_files import is_missing_file
from orchestrator.records.folder.driver_lock import LOCK_FILE
from orchestrator.records.folder.known_servers import note_server
from orchestrator.records.folder.recorded_addresses import require_confirmed
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.records.folder.sweep_identity import SweepIdentity, require_original
from orchestrator.results.stored_sweep import find_sweep, read_sweep
from orchestrator.server_addresses import embedded_study_uri, embedded_uri
from orchestrator.uris import without_password

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

_FOLDER_ONLY = "`spatialsweep delete {} --folder-only` removes just this folder"


@dataclass(frozen=True)
class Deletion:
    """Plan of a deletion: everything of a sweep that would be deleted.

    Args:
        name: Name of the sweep.
        folder: Folder with journal, tables and checkpoints.
        files: Number of files in it.
        size_bytes: Size of these files in bytes.
        storage_uri: Database of the study; may hold a password.
        study_trials: Number of trials in the study; None where there is no study of that name, or it is kept.
        tracking_uri: Tracking URI of MLflow; may hold a password.
        mlflow_runs: Ids of the runs to mark as deleted.
        has_folder: Whether the folder exists; it does not where only the study of a sweep is left.
    """

    name: str
    folder: Path
    files: int
    size_bytes: int
    storage_uri: str
    study_trials: int | None
    tracking_uri: str
    mlflow_runs: tuple[str, ...]
    has_folder: bool = True

    def as_dict(self) -> dict[str, Any]:
        """Return plain data without passwords."""
        uris = {"storage_uri": without_password(self.storage_uri), "tracking_uri": without_password(self.tracking_uri)}
        content = {**asdict(self), **uris, "folder": str(self.folder), "mlflow_runs": list(self.mlflow_runs)}
        del content["has_folder"]
        return content


@contextlib.contextmanager
def deletion_of(
    name: str,
    runs_dir: str | Path | None = None,
    *,
    keep_mlflow: bool = False,
    folder_only: bool = False,
    tracking_uri: str | None = None,
    storage_uri: str | None = None,
    dry_run: bool = False,
) -> Iterator[Deletion]:
    """Plan the deletion of a sweep, and keep drivers out while the context is open; deletes nothing itself.

    Args:
        name: Name or folder of the sweep, or name of a study whose sweep has no folder any more.
        runs_dir: Folder of all results; None takes the default.
        keep_mlflow: Keep its MLflow runs.
        folder_only: Keep its study as well; neither is contacted.
        tracking_uri: Tracking URI with its password, which a sweep does not record; None takes the recorded one.
        storage_uri: Database of the study with its password; None takes the recorded one.
        dry_run: Only plan: drivers are not kept out.

    Raises:
        SweepNameError: There is no such sweep, a driver runs it, the folder is a link, or its study and runs may be
            those of another folder.
        ConfigError: Only the sweep's journal names MLflow's server or the study's database.
        TrackingError: MLflow does not answer.
        StorageError: The database of the study does not answer.
    """
    folder = _find(name, resolve_runs_dir(runs_dir))
    if folder is None:
        yield _orphan(name, resolve_runs_dir(runs_dir), storage_uri)
        return
    if folder.is_driven:
        raise SweepNameError(
            f"{folder.name} is being run; end it first with Ctrl-C where it was started. If no driver is left, on "
            f"storage without locks, remove {folder.path / LOCK_FILE}"
        )
    with contextlib.nullcontext() if dry_run else folder.driven():
        if folder_only:
            yield _of_folder(folder, storage_uri="", study_trials=None, tracking_uri="", mlflow_runs=())
        else:
            yield _plan(folder, keep_mlflow=keep_mlflow, tracking_uri=tracking_uri, storage_uri=storage_uri)


def delete_sweep(deletion: Deletion) -> None:
    """Delete what was planned, the folder last and its journal last of all: a failed deletion can be repeated."""
    from orchestrator.tracking.mlflow_deletion import delete_runs

    if deletion.mlflow_runs:
        delete_runs(deletion.mlflow_runs, deletion.tracking_uri)
    if deletion.study_trials is not None:
        _open(deletion.storage_uri).delete_study(_study_id(deletion.name, deletion.storage_uri))
    if deletion.has_folder:
        _remove(SweepFolder(deletion.folder))


def _remove(folder: SweepFolder) -> None:
    """Delete a folder; links in it are deleted, their targets are not."""
    last = [folder.journal, folder.path / LOCK_FILE]
    for entry in [*(entry for entry in folder.path.iterdir() if entry not in last), *last]:
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink(missing_ok=True)
    folder.path.rmdir()


def _find(name: str, runs_dir: Path) -> SweepFolder | None:
    """Return the folder of a sweep; None where there is only a name.

    Raises:
        SweepNameError: The name is a path to nothing, a link, or means two folders.
    """
    by_name, by_path = runs_dir / name, Path(name)
    is_name = len(by_path.parts) == 1 and name not in ("", ".", "..")
    if is_name and SweepFolder(by_name).has_begun and SweepFolder(by_path).has_begun and not by_name.samefile(by_path):
        raise SweepNameError(f"'{name}' is a sweep in {runs_dir} and one in {Path.cwd()}: give the path of the folder")
    try:
        folder = find_sweep(name, runs_dir)
    except SweepNameError:
        if not is_name:
            raise
        return None
    for path in (by_path, by_name) if is_name else (by_path,):
        if path.is_symlink() and SweepFolder(path).has_begun:
            raise SweepNameError(
                f"{path} is a link to {path.resolve()}; nothing was deleted. Give that path, or remove the link"
            )
    return folder


def _plan(folder: SweepFolder, *, keep_mlflow: bool, tracking_uri: str | None, storage_uri: str | None) -> Deletion:
    sweep, runs_dir = read_sweep(folder), folder.path.parent
    used = {"storage": (storage_uri, sweep.result.storage_uri), "tracking": (tracking_uri, sweep.result.tracking_uri)}
    if keep_mlflow:
        del used["tracking"]
    for section, (named, recorded) in used.items():
        if named:
            note_server(named)
        else:
            require_confirmed(recorded, runs_dir, section=section, sweep=sweep.name)
    storage_uri, tracking_uri = storage_uri or sweep.result.storage_uri, tracking_uri or sweep.result.tracking_uri
    own = require_original(
        folder,
        addresses=[named or recorded for named, recorded in used.values()],
        remedy=_FOLDER_ONLY.format(shlex.quote(str(folder.path))),
    )
    return _of_folder(
        folder,
        storage_uri=storage_uri,
        study_trials=_study_trials(sweep.name, storage_uri),
        tracking_uri=tracking_uri,
        mlflow_runs=() if keep_mlflow or not _exists(tracking_uri) else _runs(own, tracking_uri),
    )


def _of_folder(
    folder: SweepFolder, *, storage_uri: str, study_trials: int | None, tracking_uri: str, mlflow_runs: tuple[str, ...]
) -> Deletion:
    files = [path for path in folder.path.rglob("*") if path.is_file() and not path.is_symlink()]
    size_bytes = sum(path.stat().st_size for path in files)
    return Deletion(
        folder.name, folder.path, len(files), size_bytes, storage_uri, study_trials, tracking_uri, mlflow_runs
    )


def _orphan(name: str, runs_dir: Path, storage_uri: str | None) -> Deletion:
    """Plan the deletion of a study whose sweep has no folder any more; it keeps the name from being used again."""
    folder = SweepFolder(runs_dir / name)
    if storage_uri:
        note_server(storage_uri)
    else:
        storage_uri = embedded_study_uri(runs_dir)
        require_confirmed(storage_uri, runs_dir, section="storage", sweep=name)
    trials = _study_trials(name, storage_uri)
    if trials is None:
        find_sweep(name, runs_dir)  # raises, with the nearest name
    if found := folder.foreign():
        raise SweepNameError(
            f"there is a study '{name}', and {folder.path} is {found}. Nothing was deleted; move that away first"
        )
    return Deletion(name, folder.path, 0, 0, storage_uri, trials, embedded_uri(runs_dir), (), has_folder=False)


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


def _runs(own: SweepIdentity, tracking_uri: str) -> tuple[str, ...]:
    from orchestrator.tracking.mlflow_client import silence_mlflow
    from orchestrator.tracking.mlflow_runs import sweep_runs

    silence_mlflow()
    return tuple(sweep_runs(own.uid, own.name, tracking_uri))


def _exists(uri: str) -> bool:
    """Return whether a database file exists; connecting to a missing one would create it."""
    return not is_missing_file(uri)
