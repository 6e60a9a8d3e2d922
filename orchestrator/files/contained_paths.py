"""Checks of untrusted names and paths, from a file, a journal or a server, before they are joined to a folder."""

from __future__ import annotations

import re
from pathlib import Path

from orchestrator.errors import UnsafePathError

_LONGEST_NAME = 255
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def plain_name(name: object, what: str = "name") -> str:
    """Return a file name that cannot leave the folder it is joined to.

    Args:
        name: Name to check; anything but text is refused.
        what: Role of the name in the error, such as `shard name`.

    Raises:
        UnsafePathError: The name is not text, empty, longer than 255 bytes, a `.` or `..`, or holds a separator,
            a drive or a control character.
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
    """Resolve a path, following links, and check that it lies within a folder.

    Args:
        root: Folder that must contain the path.
        path: Path relative to `root`, or absolute.
        what: Role of the path in the error, such as `file of the journal`.

    Raises:
        UnsafePathError: The resolved path lies outside `root`, or cannot be resolved.
    """
    try:
        resolved_root, resolved = root.resolve(), (root / path).resolve()
    except (OSError, RuntimeError, ValueError):  # a loop of links, a NUL
        raise UnsafePathError(f"{what} {_shown(path)} cannot be resolved") from None
    if not resolved.is_relative_to(resolved_root):
        raise UnsafePathError(f"{what} {_shown(path)} lies outside {root}")
    inner = (resolved, *resolved.parents)[: len(resolved.parts) - len(resolved_root.parts)]
    if any(place.is_symlink() for place in inner):  # from Python 3.13 on a loop of links is returned as it is
        raise UnsafePathError(f"{what} {_shown(path)} cannot be resolved")
    return resolved


def _shown(value: object) -> str:
    text = repr(str(value) if isinstance(value, Path) else value)
    return text if len(text) <= 80 else f"{text[:77]}..."
