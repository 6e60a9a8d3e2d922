"""Limits on the content of an archive: a small file can unpack to more than a disk holds."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import DataError

__all__ = ["DEFAULT_LIMITS", "Allowance", "Limits"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds on the content of an archive.

    Args:
        members: Largest number of files and folders.
        ratio: Largest number of unpacked bytes per byte of the archive, in addition to `free_bytes`. Image files are
            compressed already, and the raw pixels of the supported datasets at most tenfold.
        free_bytes: Unpacked bytes that any archive may have.
    """

    members: int = 20_000_000
    ratio: int = 100
    free_bytes: int = 64 << 20


DEFAULT_LIMITS = Limits()


class Allowance:
    """Remaining allowance while an archive is unpacked.

    Args:
        archive: Path of the archive.
        target: Folder to which it is unpacked.
        limits: Bounds on its content.
    """

    _CHECKED_EVERY_BYTES = 256 << 20

    def __init__(self, archive: Path, target: Path, limits: Limits) -> None:
        self._archive, self._target, self._limits = archive, target, limits
        self._most = limits.free_bytes + limits.ratio * archive.stat().st_size
        self._members = self._written = self._passed = 0
        self._next_check = 0

    def announce(self, members: int, size: int) -> None:
        """Check the directory of a zip file before anything is written.

        Args:
            members: Number of entries.
            size: Sum of the announced sizes, in bytes.
        """
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
