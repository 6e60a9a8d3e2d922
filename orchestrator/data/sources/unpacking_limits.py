"""How much may come out of an archive: a small file can unpack to more than a disk holds."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import DataError

__all__ = ["DEFAULT_LIMITS", "Allowance", "Limits"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of an archive.

    Args:
        members: Files and folders.
        ratio: Bytes that come out for each byte of the archive, beyond `free_bytes`. Images are compressed already,
            and the raw pixels of the known datasets at most tenfold.
        free_bytes: What any archive may unpack to.
    """

    members: int = 20_000_000
    ratio: int = 100
    free_bytes: int = 64 << 20


DEFAULT_LIMITS = Limits()


class Allowance:
    """What is left of the limits while an archive is unpacked.

    Args:
        archive: The archive, for messages and its size.
        target: The folder it is unpacked to.
        limits: The bounds.
    """

    _CHECKED_EVERY_BYTES = 256 << 20

    def __init__(self, archive: Path, target: Path, limits: Limits) -> None:
        self._archive, self._target, self._limits = archive, target, limits
        self._most = limits.free_bytes + limits.ratio * archive.stat().st_size
        self._members = self._written = self._passed = 0
        self._next_check = 0

    def announce(self, members: int, size: int) -> None:
        """Check what a zip's directory promises before anything is written."""
        if members > self._limits.members:
            self._refuse(f"{self._limits.members} files")
        if size > self._most:
            self._refuse(f"{self._most} bytes")
        free = shutil.disk_usage(self._target).free
        if size > free:
            raise DataError(
                f"{self._archive}: unpacks to {size} bytes, and {free} are free in {self._target.parent}; name a "
                "folder with room: --scratch DIR"
            )

    def count(self) -> None:
        """Count one file or folder."""
        self._members += 1
        if self._members > self._limits.members:
            self._refuse(f"{self._limits.members} files")

    def take(self, size: int) -> None:
        """Count bytes that are written."""
        self._written += size
        if self._written > self._most:
            self._refuse(f"{self._most} bytes")
        if self._written > self._next_check:
            self._next_check = self._written + self._CHECKED_EVERY_BYTES
            if shutil.disk_usage(self._target).free < self._CHECKED_EVERY_BYTES:
                raise DataError(
                    f"{self._archive}: does not fit on the disk of {self._target.parent}; name a folder with room: "
                    "--scratch DIR"
                )

    def pass_over(self, size: int) -> None:
        """Count bytes that are unpacked, written or not."""
        self._passed += size
        if self._passed > self._most:
            self._refuse(f"{self._most} bytes")

    def _refuse(self, most: str) -> None:
        raise DataError(
            f"{self._archive}: unpacks to more than {most}, which no dataset of its size does; unpack it yourself if "
            "you trust it, and name the folder"
        )
