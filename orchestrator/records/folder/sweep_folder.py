"""Folder of a sweep: the places of its files, and the lock of the one driver that may write to it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import SweepNameError, UnsafePathError, did_you_mean
from orchestrator.files.contained_paths import plain_name
from orchestrator.records.folder.driver_lock import LOCK_FILE, driver_lock, is_locked

_JOURNAL = "journal.jsonl"
_TAKEN = ("artifacts", "datasets", "reproduce")  # folders of a runs_dir that all sweeps share
_FOLDERS = ("scratch", "sessions", "trials")
_LOCK_BYTES = 300


@dataclass(frozen=True)
class SweepFolder:
    """Folder of one sweep, `runs_dir/<name>`, on storage that every node of the cluster reaches.

    Args:
        path: Path of the folder.
    """

    path: Path

    @property
    def name(self) -> str:
        """Name of the sweep."""
        return self.path.name

    @property
    def journal(self) -> Path:
        """Path of the journal, from which all other state is derived."""
        return self.path / _JOURNAL

    @property
    def trials(self) -> Path:
        """Path of the folder that holds a folder of checkpoints per trial."""
        return self.path / "trials"

    def session(self, number: int) -> Path:
        """Return the folder of the files that describe a session; sessions are counted from 1."""
        return self.path / "sessions" / f"{number:03d}"

    @property
    def scratch(self) -> Path:
        """Path of Ray's files, which are not needed once the sweep has stopped."""
        return self.path / "scratch"

    @property
    def has_begun(self) -> bool:
        """True if a sweep was started here: its journal is not empty, although it may be damaged."""
        if self.journal.is_symlink() or not self.journal.exists():
            return False
        return not self.journal.is_file() or self.journal.stat().st_size > 0

    @property
    def has_whole_event(self) -> bool:
        """True if the first line of the journal is complete."""
        if self.journal.is_symlink() or not self.journal.is_file():
            return False
        with self.journal.open("rb") as file:
            return file.readline().endswith(b"\n")

    @property
    def is_driven(self) -> bool:
        """True if a driver is running the sweep."""
        return is_locked(self.path)

    def foreign(self) -> str | None:
        """Return a description of what occupies the path of a new sweep; None when the path is free.

        The path is free when there is nothing, an empty folder, or the remains of a start that failed: the lock file,
        an empty journal and empty folders of a sweep.
        """
        if not self.path.is_dir():
            is_link = self.path.is_symlink()
            return "a link that leads nowhere" if is_link else "a file" if self.path.exists() else None
        try:
            others = sorted(entry.name for entry in self.path.iterdir() if not _is_leftover(entry))
        except OSError as error:
            return f"a folder that cannot be read ({error.strerror})"
        if not others:
            return None
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        return f"a folder that is no sweep and is not empty ({others[0]}{more})"

    @contextlib.contextmanager
    def driven(self, *, new: bool = False) -> Iterator[None]:
        """Hold the lock of the driver; it is released at the latest when this process ends.

        A start that fails before the sweep has begun leaves nothing behind: files created by this call are removed.

        Args:
            new: Whether the sweep is new; else it must have begun.

        Raises:
            SweepNameError: Another driver is running the sweep, or has begun or deleted it meanwhile.
        """
        is_ours, had_journal = not self.path.exists(), self.journal.exists()
        with driver_lock(self.path):
            _require_free(self) if new else _require_begun(self)
            try:
                yield
            finally:
                if new and not self.has_begun:
                    self._clear_start(folder=is_ours, journal=not had_journal)

    def _clear_start(self, *, folder: bool, journal: bool) -> None:
        """Remove the files of a start that failed: a journal without events, and the folder."""
        if journal and _is_empty_file(self.journal):
            self.journal.unlink()
        if folder:
            (self.path / LOCK_FILE).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # it holds files of somebody else
                self.path.rmdir()

    def clear_scratch(self) -> None:
        """Remove Ray's files of the session that has ended; a link and its target are left."""
        shutil.rmtree(self.scratch, ignore_errors=True)


def new_folder(runs_dir: Path, name: str) -> SweepFolder:
    """Return the folder of a new sweep, which may exist if it is empty.

    Raises:
        SweepNameError: A sweep of this name exists, or something else occupies the path.
    """
    folder = _named(runs_dir, name)
    if folder.has_whole_event and folder.is_driven:
        raise SweepNameError(
            f"sweep '{name}' is running, in {folder.path}. Follow it with `spatialsweep status {name}`, change it with "
            f"`spatialsweep tell {name}`, or start another with `--name`"
        )
    _require_free(folder)
    return folder


def existing_folder(runs_dir: Path, name: str) -> SweepFolder:
    """Return the folder of a sweep that was begun.

    Raises:
        SweepNameError: There is no sweep of this name.
    """
    folder = _named(runs_dir, name)
    _require_begun(folder)
    return folder


def sweep_names(runs_dir: Path) -> list[str]:
    """Return the names of all sweeps that were begun."""
    found = [SweepFolder(journal.parent) for journal in runs_dir.glob(f"*/{_JOURNAL}")]
    return sorted(folder.name for folder in found if folder.has_begun)


def _named(runs_dir: Path, name: str) -> SweepFolder:
    try:
        return SweepFolder(runs_dir / plain_name(name, "name of a sweep"))
    except UnsafePathError as error:
        if Path(name).is_dir() and (known := sweep_names(Path(name))):
            raise SweepNameError(f"{name} is a folder of sweeps. Name one of them: {', '.join(known)}") from None
        hint = f", and no sweep lies at {name}" if "/" in name else ""
        raise SweepNameError(f"no sweep '{name}' in {runs_dir}: {error}{hint}") from None


def _require_free(folder: SweepFolder) -> None:
    name = folder.name
    if name in _TAKEN:
        raise SweepNameError(f"a sweep cannot be called '{name}': {folder.path} is for all sweeps. Choose another name")
    if folder.has_whole_event:
        raise SweepNameError(
            f"sweep '{name}' exists already, in {folder.path}. "
            f"Continue it with `spatialsweep resume {name}`, start another with `--name`, "
            f"or remove it with `spatialsweep delete {name}`"
        )
    if found := folder.foreign():
        raise SweepNameError(f"{folder.path} is {found}. Choose another `--name`, or move it away")


def _require_begun(folder: SweepFolder) -> None:
    if folder.has_begun:
        return
    runs_dir = folder.path.parent
    known = sweep_names(runs_dir)
    hint = did_you_mean(folder.name, known) if known else "No sweep was begun there."
    raise SweepNameError(f"no sweep '{folder.name}' in {runs_dir}. {hint}")


def _is_leftover(entry: Path) -> bool:
    """Return whether an entry is an empty file or folder that a start creates before the sweep has begun."""
    if entry.is_symlink():
        return False
    if entry.name in _FOLDERS:
        return entry.is_dir() and not any(entry.iterdir())
    if entry.name == _JOURNAL:
        return _is_empty_file(entry)
    if entry.name == LOCK_FILE and entry.is_file() and entry.stat().st_size <= _LOCK_BYTES:
        text = entry.read_bytes()
        return not text or text.startswith(b"process ")
    return False


def _is_empty_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink() and path.stat().st_size == 0
