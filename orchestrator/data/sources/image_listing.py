"""Listing of the image files in a folder, and a count of all other files."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.data.decoding import ENDINGS
from orchestrator.data.shown_names import shown_name
from orchestrator.errors import DataError

__all__ = ["PassedOver", "image_paths", "is_clutter", "subfolders"]

_CLUTTER = (
    *(".ipynb_checkpoints", ".Trash-*", ".Trash", ".Trashes", "@eaDir", "__MACOSX", "._*"),
    *(".DS_Store", "Thumbs.db", "desktop.ini", ".directory", ".git", ".gitkeep", ".gitignore"),
)
"""Files that desktops, notebooks and stores leave in folders; they are ignored without a notice."""

_NAMES_SHOWN = 3
_REASONS_SHOWN = 8


@dataclass
class PassedOver:
    """Files that a reader ignores, by reason.

    Args:
        base: Folder to which shown names are relative.
        names: First names of each reason.
        counts: Number of files of each reason.
    """

    base: Path
    names: dict[str, list[str]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def note(self, reason: str, path: Path) -> None:
        """Count a file, and keep its name if it is one of the first."""
        self.counts[reason] = self.counts.get(reason, 0) + 1
        names = self.names.setdefault(reason, [])
        if len(names) < _NAMES_SHOWN:
            names.append(shown_name(str(path.relative_to(self.base))))

    def lines(self) -> tuple[str, ...]:
        """Return one line per reason, the most frequent first."""
        ordered = sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))
        lines = [f"{self.base}: passed over {count} {reason}: {self._names(reason)}" for reason, count in ordered]
        if len(lines) > _REASONS_SHOWN:
            rest = sum(count for _, count in ordered[_REASONS_SHOWN:])
            lines[_REASONS_SHOWN:] = [f"{self.base}: passed over {rest} of other kinds"]
        return tuple(lines)

    def _names(self, reason: str) -> str:
        more = self.counts[reason] - len(self.names[reason])
        return ", ".join(self.names[reason]) + (f" and {more} more" if more else "")


def is_clutter(name: str) -> bool:
    """Check whether a file or folder is one that programs leave in folders."""
    return any(fnmatch.fnmatchcase(name.lower(), pattern.lower()) for pattern in _CLUTTER)


def subfolders(folder: Path, passed_over: PassedOver, stray: str) -> list[str]:
    """Return the names of the folders directly in a folder, including links to folders.

    Args:
        folder: Folder to list.
        passed_over: Record of the ignored files.
        stray: Reason recorded for a file.
    """
    names = []
    for entry in _entries(folder):
        path = folder / entry.name
        if is_clutter(entry.name):
            continue
        if not entry.is_dir():
            passed_over.note(stray, path)
        elif entry.name.startswith("."):
            passed_over.note("hidden folders", path)
        else:
            names.append(entry.name)
    return sorted(names)


def image_paths(folder: Path, passed_over: PassedOver) -> list[Path]:
    """Return the image files at any depth, by name; links to files are followed, links to folders are not.

    Args:
        folder: Folder to list; it need not exist.
        passed_over: Record of the ignored files.
    """
    return sorted(_walk(folder, passed_over)) if folder.is_dir() else []


def _walk(folder: Path, passed_over: PassedOver) -> Iterator[Path]:
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        for entry in _entries(here):
            path = here / entry.name
            if is_clutter(entry.name):
                continue
            if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
                waiting.append(path)
            elif reason := _reason(entry):
                passed_over.note(reason, path)
            else:
                yield path


def _reason(entry: os.DirEntry[str]) -> str:
    """Return the reason why an entry is not an image file; empty if its name is that of one."""
    if entry.is_dir():
        return "links to folders" if entry.is_symlink() else "hidden folders"
    if not entry.is_file():
        return "links to nothing" if entry.is_symlink() else "that are neither files nor folders"
    ending = Path(entry.name).suffix.lower()
    if ending in ENDINGS:
        return ""
    return f"files with the ending {shown_name(ending)}" if ending else "files without an ending"


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise DataError(f"{shown_name(str(folder))}: cannot be listed ({error.strerror})") from None
