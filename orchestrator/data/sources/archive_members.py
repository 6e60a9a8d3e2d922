"""Members of tar and zip archives, and the rejected names and types."""

from __future__ import annotations

import stat
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

from orchestrator.data.shown_names import shown_name
from orchestrator.errors import DataError

__all__ = ["Member", "SoundHeaders", "member_parts"]

_LOCKED = 0x1
_METHODS = {
    zipfile.ZIP_STORED: "",
    zipfile.ZIP_DEFLATED: "",
    zipfile.ZIP_BZIP2: "",
    zipfile.ZIP_LZMA: "",
    1: "Shrink",
    6: "Implode",
    9: "Deflate64",
    93: "Zstandard",
    95: "XZ",
    96: "JPEG",
    98: "PPMd",
    99: "AES encryption",
}
_TAR_KINDS = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a named pipe",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}


class SoundHeaders(tarfile.TarInfo):
    """Headers of a tar file, of which a damaged one is an error; `tarfile` takes it for the end of the archive."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> Self:
        """Read the next header.

        Raises:
            ReadError: It is damaged, or cut.
        """
        try:
            return super().fromtarfile(tar)
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:  # type: ignore[attr-defined]
            raise tarfile.ReadError(f"damaged header: {error}") from None


@dataclass(frozen=True)
class Member:
    """One entry of an archive.

    Args:
        name: Name as stored.
        size: Announced size in bytes.
        is_folder: True for a folder.
        fault: Reason why it is rejected; empty for regular files and folders.
        open: Function that opens the content of a file.
    """

    name: str
    size: int
    is_folder: bool
    fault: str
    open: Callable[[], IO[bytes]]

    @property
    def shown(self) -> str:
        """Name for messages."""
        return shown_name(self.name)

    @classmethod
    def of_tar(cls, entry: tarfile.TarInfo, opener: Callable[[], IO[bytes]]) -> Member:
        """Return a member of a tar file."""
        fault = ""
        if entry.issparse():
            fault = "is a sparse file"
        elif not (entry.isreg() or entry.isdir()):
            fault = f"is {_TAR_KINDS.get(entry.type, 'neither a file nor a folder')}"
        elif entry.size < 0:
            fault = f"announces {entry.size} bytes"
        return cls(entry.name, 0 if entry.isdir() else entry.size, entry.isdir(), fault, opener)

    @classmethod
    def of_zip(cls, entry: zipfile.ZipInfo, opener: Callable[[], IO[bytes]]) -> Member:
        """Return a member of a zip file."""
        fault = ""
        kind = stat.S_IFMT(entry.external_attr >> 16)
        method = _METHODS.get(entry.compress_type, f"method {entry.compress_type}")
        if stat.S_ISLNK(kind):
            fault = "is a symbolic link"
        elif kind and not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
            fault = "is neither a file nor a folder"
        elif entry.flag_bits & _LOCKED:
            fault = "is locked with a password; unpack it, and name the folder"
        elif method:
            fault = f"is compressed with {method}, which cannot be read; unpack it, and name the folder"
        name = entry.orig_filename if "\0" in entry.orig_filename else entry.filename
        return cls(name, entry.file_size, entry.is_dir(), fault, opener)


def member_parts(archive: Path, member: Member) -> tuple[str, ...]:
    """Return the names from the target down to a member; none for the target itself.

    Raises:
        DataError: It is not a regular file or folder, or its name leads out of the target.
    """
    parts = tuple(part for part in member.name.split("/") if part not in ("", "."))
    reason = member.fault
    if not reason and (member.name.startswith("/") or ".." in parts):
        reason = "would be written elsewhere"
    elif not reason and any(character in member.name for character in "\\\0\n\r"):
        reason = "has a backslash, a line break or a NUL in its name"
    elif not reason and not parts and not member.is_folder:
        reason = "has no name"
    if reason:
        raise DataError(f"{archive}: cannot be unpacked: {member.shown} {reason}")
    return parts
