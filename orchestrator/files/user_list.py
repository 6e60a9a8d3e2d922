"""Lists that this user keeps in `~/.config/spatialsweep`: of what they have named themselves, a line each."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

__all__ = ["add_to_list", "list_path", "read_list"]

logger = logging.getLogger(__name__)


def list_path(name: str) -> Path:
    """Return the path of a list.

    Args:
        name: Name of the list.
    """
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "spatialsweep" / name


def add_to_list(name: str, line: str) -> None:
    """Add a line to a list, which only this user can read.

    Args:
        name: Name of the list.
        line: Line without a line break.

    Raises:
        OSError: The list cannot be written.
    """
    path = list_path(name)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "a", encoding="utf-8") as file:
        file.write(f"{line}\n")


def read_list(name: str) -> list[str]:
    """Return the lines of a list; none of a list that others may write to, which is logged.

    Args:
        name: Name of the list.
    """
    path = list_path(name)
    try:
        with path.open(encoding="utf-8") as file:
            facts = os.fstat(file.fileno())
            if facts.st_uid != os.getuid() or facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                logger.warning("%s is not used: others may write to it. Use `chmod 600 %s`", path, path)
                return []
            return file.read().splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        logger.warning("%s cannot be read: %s", path, error)
        return []
