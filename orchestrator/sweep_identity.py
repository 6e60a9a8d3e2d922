"""Which sweep a folder holds: MLflow and the study know it by an id and a name, which a copy of the folder shares."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import SpatialSweepError, SweepNameError
from orchestrator.recorded_addresses import is_shared
from orchestrator.sweep_folder import SweepFolder, sweep_names
from orchestrator.tracking.journal import read_events

COPY = "Give the folder that name again, or begin a sweep of your own with `spatialsweep run --name`"
"""Remedy for one who wants to go on with a copy."""

_UID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class SweepIdentity:
    """What the first event of a journal says.

    Args:
        uid: Id of the sweep in MLflow, 32 hexadecimal digits; empty where the journal has none.
        name: Name it was begun under.
        runs_dir: Folder of results it was begun in; None where that is not recorded.
    """

    uid: str
    name: str
    runs_dir: Path | None


def identity_of(folder: SweepFolder) -> SweepIdentity:
    """Return who the sweep of a folder is.

    Args:
        folder: Folder of a sweep that has begun.
    """
    event = _first_event(folder)
    uid, name, config = event.get("uid"), event.get("name"), event.get("config")
    runs_dir = config.get("runs_dir") if isinstance(config, dict) else None
    return SweepIdentity(
        uid if isinstance(uid, str) and _UID.fullmatch(uid) else "",
        name if isinstance(name, str) else "",
        Path(runs_dir) if isinstance(runs_dir, str) else None,
    )


def _first_event(folder: SweepFolder) -> dict[str, Any]:
    """The event a sweep begins with; empty where the journal is damaged there, so that it is nobody's."""
    try:
        event: Any = next((event for event, _ in read_events(folder.journal)), {})
    except (ValueError, SpatialSweepError):
        return {}
    return event if isinstance(event, dict) else {}


def require_original(folder: SweepFolder, *, addresses: Iterable[str | None] = (), remedy: str = COPY) -> SweepIdentity:
    """Refuse a folder whose runs in MLflow, or whose study, may be those of another folder.

    Args:
        folder: Folder of a sweep that has begun.
        addresses: MLflow and the database of the study; None for those within the folder of results. At others a copy
            of that whole folder finds the records of the original.
        remedy: What to do instead, for the error.

    Raises:
        SweepNameError: The journal has no id, the folder has another name than the sweep, or another folder holds a
            sweep of the same id.
    """
    own = identity_of(folder)
    if not own.uid:
        raise SweepNameError(f"{folder.path}: its journal has no id of a sweep (32 hexadecimal digits). {remedy}")
    if own.name != folder.name:
        original = SweepFolder(folder.path.with_name(own.name)) if _is_name(own.name) else None
        is_copy = original is not None and original.has_begun and identity_of(original).uid == own.uid
        what = "is a copy of" if is_copy else "holds the sweep"
        raise SweepNameError(
            f"{folder.path} {what} {own.name!r}, whose study and runs in MLflow bear that name and id. {remedy}"
        )
    others = [name for name in sweep_names(folder.path.parent) if name != folder.name]
    for other in (SweepFolder(folder.path.with_name(name)) for name in others):
        found = identity_of(other)
        if found.uid == own.uid and found.name == other.name:
            raise SweepNameError(f"{folder.path} and {other.path} have the same id in MLflow. {remedy}")
    shares = any(uri is not None and is_shared(uri, folder.path.parent) for uri in addresses)
    if shares and own.runs_dir is not None and own.runs_dir != folder.path.parent:
        before = SweepFolder(own.runs_dir / own.name)
        if before.has_begun and not before.path.samefile(folder.path) and identity_of(before).uid == own.uid:
            raise SweepNameError(f"{folder.path} is a copy of {before.path}, whose records it shares. {remedy}")
    return own


def _is_name(name: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", name) is not None
