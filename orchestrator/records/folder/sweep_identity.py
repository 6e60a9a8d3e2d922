"""Identity of the sweep in a folder: its id and name in MLflow and in the study, which a copy of the folder shares."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import JournalError, SweepNameError
from orchestrator.records.events import SweepStarted
from orchestrator.records.folder.recorded_addresses import is_shared
from orchestrator.records.folder.sweep_folder import SweepFolder, sweep_names
from orchestrator.records.journal import read_events

COPY = "Give the folder that name again, or begin a sweep of your own with `spatialsweep run --name`"
"""Remedy for a user who wants to continue a copy."""


@dataclass(frozen=True)
class SweepIdentity:
    """Identity of a sweep, from the first event of its journal.

    Args:
        uid: Id of the sweep in MLflow, 32 hexadecimal digits.
        name: Name with which the sweep was started.
        runs_dir: Folder of results in which it was started; None when not recorded.
    """

    uid: str
    name: str
    runs_dir: Path | None


def identity_of(folder: SweepFolder) -> SweepIdentity:
    """Return the identity of the sweep in a folder.

    Args:
        folder: Folder of a sweep that has begun.

    Raises:
        JournalError: The first line of its journal is damaged.
    """
    started = next((event for event, _ in read_events(folder.journal)), None)
    if not isinstance(started, SweepStarted):
        raise JournalError(folder.journal, "it does not begin with the start of a sweep", line=1, byte=0)
    runs_dir = started.config.get("runs_dir")
    return SweepIdentity(started.uid, started.name, Path(runs_dir) if isinstance(runs_dir, str) else None)


def require_original(folder: SweepFolder, *, addresses: Iterable[str | None] = (), remedy: str = COPY) -> SweepIdentity:
    """Refuse a folder whose runs in MLflow, or whose study, may belong to another folder.

    Args:
        folder: Folder of a sweep that has begun.
        addresses: Addresses of MLflow and of the study; None for databases within the folder of results. At other
            addresses a copy of that whole folder finds the records of the original.
        remedy: What to do instead, for the error.

    Raises:
        SweepNameError: The folder has another name than the sweep, or another folder holds a sweep of the same id.
        JournalError: The first line of its journal is damaged.
    """
    own = identity_of(folder)
    if own.name != folder.name:
        original = SweepFolder(folder.path.with_name(own.name)) if _is_name(own.name) else None
        is_copy = original is not None and _has_uid(original, own.uid)
        what = "is a copy of" if is_copy else "holds the sweep"
        raise SweepNameError(
            f"{folder.path} {what} {own.name!r}, whose study and runs in MLflow bear that name and id. {remedy}"
        )
    others = [name for name in sweep_names(folder.path.parent) if name != folder.name]
    for other in (SweepFolder(folder.path.with_name(name)) for name in others):
        if _has_uid(other, own.uid) and identity_of(other).name == other.name:
            raise SweepNameError(f"{folder.path} and {other.path} have the same id in MLflow. {remedy}")
    shares = any(uri is not None and is_shared(uri, folder.path.parent) for uri in addresses)
    if shares and own.runs_dir is not None and own.runs_dir != folder.path.parent:
        before = SweepFolder(own.runs_dir / own.name)
        if _has_uid(before, own.uid) and not before.path.samefile(folder.path):
            raise SweepNameError(f"{folder.path} is a copy of {before.path}, whose records it shares. {remedy}")
    return own


def _has_uid(folder: SweepFolder, uid: str) -> bool:
    """Return whether a folder holds the sweep with an id; a folder with a damaged journal does not."""
    try:
        return folder.has_begun and identity_of(folder).uid == uid
    except JournalError:
        return False


def _is_name(name: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", name) is not None
