"""Checks of names and paths that come from a file, a journal or a server, before they are joined to a folder."""

from __future__ import annotations

import re
from pathlib import Path

from orchestrator.errors import UnsafePathError

_LONGEST_NAME = 255
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def plain_name(name: object, what: str = "name") -> str:
    """Return a file name that cannot leave the folder it is joined to.

    Args:
        name: The name as it was read; anything but text is refused.
        what: The name's role in the error, such as `shard name`.

    Raises:
        UnsafePathError: It is no text, empty, longer than 255 bytes, a `.` or `..`, or holds a separator, a drive
            or a control character.
    """
    if (
        not isinstance(name, str)
        or not name
        or name in (".", "..")
        or len(name.encode(errors="replace")) > _LONGEST_NAME
    ):
        raise UnsafePathError(f"{what} {_shown(name)} is not a plain file name")
    if "/" in name or "\\" in name or ":" in name or _CONTROL.search(name):
        raise UnsafePathError(
            f"{what} {_shown(name)} is not a plain file name: it holds a separator or control character"
        )
    return name


def contained(root: Path, path: str | Path, what: str = "path") -> Path:
    """Return a path resolved beneath a folder, links followed.

    Args:
        root: The folder.
        path: Relative to `root`, or absolute.
        what: The path's role in the error, such as `file of the journal`.

    Raises:
        UnsafePathError: The resolved path lies outside `root`, or cannot be resolved.
    """
    try:
        resolved_root, resolved = root.resolve(), (root / path).resolve()
    except (OSError, RuntimeError, ValueError):  # a loop of links, a NUL
        raise UnsafePathError(f"{what} {_shown(path)} cannot be resolved") from None
    if not resolved.is_relative_to(resolved_root):
        raise UnsafePathError(f"{what} {_shown(path)} lies outside {root}")
    return resolved


def _shown(value: object) -> str:
    text = repr(str(value) if isinstance(value, Path) else value)
    return text if len(text) <= 80 else f"{text[:77]}..."
