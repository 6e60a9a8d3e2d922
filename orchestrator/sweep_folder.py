"""The folder of a sweep: where everything about it lies, and the lock of the one driver that may work in it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import SweepNameError, did_you_mean

_JOURNAL = "journal.jsonl"
_TAKEN = ("artifacts", "datasets")  # folders of a runs_dir that all sweeps share


@dataclass(frozen=True)
class SweepFolder:
    """One sweep's folder, `runs_dir/<name>`; every node of the cluster reaches it.

    Args:
        path: The folder.
    """

    path: Path

    @property
    def name(self) -> str:
        """Of the sweep."""
        return self.path.name

    @property
    def journal(self) -> Path:
        """Every event of the sweep; all else is derived from it."""
        return self.path / _JOURNAL

    @property
    def trials(self) -> Path:
        """Holds a folder of checkpoints per trial."""
        return self.path / "trials"

    def session(self, number: int) -> Path:
        """Files that say what a session, counted from 1, was begun with."""
        return self.path / "sessions" / f"{number:03d}"

    @property
    def scratch(self) -> Path:
        """Files of Ray, of no use once the sweep has stopped."""
        return self.path / "scratch"

    @property
    def has_begun(self) -> bool:
        """Whether any sweep was ever begun here."""
        return self.journal.exists() and self.journal.stat().st_size > 0

    @property
    def is_driven(self) -> bool:
        """Whether a driver is at work on the sweep."""
        try:
            with (self.path / "lock").open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    @contextlib.contextmanager
    def driven(self) -> Iterator[None]:
        """Keeps other drivers out; the system lifts the lock when this process ends, however it ends.

        Raises:
            SweepNameError: Another driver is at work on the sweep.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "lock").open("a+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                holder = file.read().decode() or "another process"
                raise SweepNameError(
                    f"sweep '{self.name}' is being run by {holder}. Wait for its end, or press Ctrl-C there"
                ) from None
            file.truncate(0)
            file.write(f"process {os.getpid()} on {os.uname().nodename}".encode())
            file.flush()
            try:
                yield
            finally:
                if not self.has_begun:
                    shutil.rmtree(self.path, ignore_errors=True)

    def clear_scratch(self) -> None:
        """Removes what Ray has written for the session that has ended."""
        shutil.rmtree(self.scratch, ignore_errors=True)


def new_folder(runs_dir: Path, name: str) -> SweepFolder:
    """The folder of a new sweep; one in which no sweep ever began is taken over.

    Raises:
        SweepNameError: A sweep of this name exists.
    """
    folder = SweepFolder(runs_dir / name)
    if name in _TAKEN:
        raise SweepNameError(f"a sweep cannot be called '{name}': {folder.path} is for all sweeps. Choose another name")
    if folder.has_begun:
        raise SweepNameError(
            f"sweep '{name}' exists already, in {folder.path}. "
            f"Continue it with `spatialsweep resume {name}`, start another with `--name`, "
            f"or remove it with `spatialsweep delete {name}`"
        )
    return folder


def existing_folder(runs_dir: Path, name: str) -> SweepFolder:
    """The folder of a sweep that was begun.

    Raises:
        SweepNameError: There is none of this name.
    """
    folder = SweepFolder(runs_dir / name)
    if not folder.has_begun:
        known = sweep_names(runs_dir)
        hint = did_you_mean(name, known) if known else "No sweep was begun there."
        raise SweepNameError(f"no sweep '{name}' in {runs_dir}. {hint}")
    return folder


def sweep_names(runs_dir: Path) -> list[str]:
    """Names of all sweeps that were begun."""
    found = [SweepFolder(journal.parent) for journal in runs_dir.glob(f"*/{_JOURNAL}")]
    return sorted(folder.name for folder in found if folder.has_begun)
