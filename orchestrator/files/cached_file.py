"""Files that take long to make: made once for this user, kept in the cache folder, and copied afterwards."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

from orchestrator.files.atomic_files import atomic_file

logger = logging.getLogger(__name__)

_DIGEST_BYTES = hashlib.sha256().digest_size


def cached_path(name: str) -> Path:
    """Return the path of a file in this user's cache folder.

    Args:
        name: Name of the file.

    Raises:
        RuntimeError: This user has no home folder.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path("~/.cache").expanduser()) / "spatialsweep" / name


def cached_content(name: str, make: Callable[[Path], None]) -> bytes:
    """Return the content of a cached file, which is made again when it is missing, damaged or not this user's.

    Its first bytes are the SHA-256 of the rest. Processes that make it at the same time replace each other's file.

    Args:
        name: Name of the file, which changes with everything that its content depends on.
        make: Function that writes the content to a new path in a folder of its own.

    Raises:
        OSError: The cache folder cannot be written.
        RuntimeError: This user has no home folder.
    """
    path = cached_path(name)
    content = _intact_content(path)
    if content is None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=path.parent) as folder:
            made = Path(folder) / name
            make(made)
            content = made.read_bytes()
        with atomic_file(path) as partial:
            partial.chmod(0o600)
            partial.write_bytes(hashlib.sha256(content).digest() + content)
    return content


def place_new_file(path: Path, content: bytes, *, mode: int) -> bool:
    """Write a file completely, or not at all; return False where one is there already.

    Args:
        path: Path of the file, in a folder that exists.
        content: Content of the file.
        mode: Permissions, of which the user's umask removes some.

    Raises:
        OSError: The folder cannot be written, or its file system has no hard links.
    """
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        partial = Path(folder) / path.name
        with os.fdopen(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(partial)  # unlike a rename, it replaces nothing
            return True
    return False


def _intact_content(path: Path) -> bytes | None:
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            facts = os.fstat(file.fileno())
            if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.getuid():
                return None
            if facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                return None
            digest, content = file.read(_DIGEST_BYTES), file.read()
    except FileNotFoundError:
        return None
    except OSError as error:  # a link, for instance
        logger.info("%s cannot be used: %s", path, error)
        return None
    return content if hashlib.sha256(content).digest() == digest else None
