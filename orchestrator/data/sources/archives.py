"""Unpacking of downloaded archives: tar, plain or compressed, and zip.

Only regular files and folders are unpacked, each under its own name within the target. `extractall` is not used: in
Python releases before June 2025 its filters let links in tar files write files elsewhere (CVE-2025-4517 and related).
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, cast

from orchestrator.data.shown_names import one_line
from orchestrator.data.sources.archive_members import Member, SoundHeaders, member_parts
from orchestrator.data.sources.unpacking_limits import DEFAULT_LIMITS, Allowance, Limits
from orchestrator.errors import DataError
from orchestrator.files.contained_paths import contained

__all__ = ["PARSER_FAULTS", "check_compression", "is_archive", "unpack"]

PARSER_FAULTS = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
    *(OSError, EOFError, ValueError, LookupError, ArithmeticError, AttributeError, TypeError),
    *(AssertionError, RuntimeError, MemoryError),  # RuntimeError covers its subclasses, such as RecursionError
)
"""Exceptions of the standard library's archive readers for damaged archives."""

_MAGIC: dict[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
    b"\x5d\x00\x00": lzma.open,
}
_CHUNK_BYTES = 1 << 20


def is_archive(path: Path) -> bool:
    """Check whether a file is an archive by its content; damage is reported when it is unpacked."""
    if not path.is_file():
        return False
    try:
        return _is_zip(path) or _compressed_reader(path) is not None or tarfile.is_tarfile(path)
    except PARSER_FAULTS:
        return False


def unpack(archive: Path, target: Path, limits: Limits = DEFAULT_LIMITS) -> None:
    """Unpack an archive, and write only within the target.

    Args:
        archive: Path of a tar file, plain or compressed, or of a zip file.
        target: Empty folder.
        limits: Bounds on the unpacked content.

    Raises:
        DataError: The archive is cut, damaged or locked, or holds a link, a device, a name that leads out of the
            target or occurs twice, or more than `limits` allow.
    """
    allowance = Allowance(archive, target, limits)
    members = _zip_members if _is_zip(archive) else _tar_members
    name, folders = "", set[Path]()
    try:
        for member in members(archive, allowance):
            name = member.shown
            _place(archive, member, target, allowance, folders)
    except DataError:
        raise
    except PARSER_FAULTS as error:
        at = f" at {name}" if name else ""
        raise DataError(
            f"{archive}: cannot be unpacked{at} ({one_line(error)}); fetch it again, and check the free disk"
        ) from None


def _place(archive: Path, member: Member, target: Path, allowance: Allowance, folders: set[Path]) -> None:
    """Write one member within the target; `folders` are the folders created so far."""
    parts = member_parts(archive, member)
    if not parts:
        return  # the folder itself, which many archives list
    path = target.joinpath(*parts)
    folder = path if member.is_folder else path.parent
    try:
        if folder not in folders:
            contained(target, folder, "member").mkdir(parents=True, exist_ok=True)
            folders.add(folder)
        if member.is_folder:
            return
        with path.open("xb") as file, member.open() as content:
            while chunk := content.read(_CHUNK_BYTES):
                allowance.take(len(chunk))
                file.write(chunk)
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        raise DataError(f"{archive}: holds {member.shown} twice, or as a file and a folder; pack it again") from None
    if path.stat().st_size != member.size:
        raise DataError(
            f"{archive}: cannot be unpacked at {member.shown} (it ends after {path.stat().st_size} of {member.size} "
            "bytes); fetch it again"
        )


def _zip_members(archive: Path, allowance: Allowance) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as zipped:
        entries = zipped.infolist()
        allowance.announce(len(entries), sum(entry.file_size for entry in entries))
        for entry in entries:
            allowance.count()
            yield Member.of_zip(entry, lambda entry=entry: zipped.open(entry))  # type: ignore[misc]


def _tar_members(archive: Path, allowance: Allowance) -> Iterator[Member]:
    opener = _compressed_reader(archive)
    with opener(archive) if opener else archive.open("rb") as raw:
        forward = _ForwardFile(raw, allowance)
        with tarfile.open(fileobj=cast(IO[bytes], forward), mode="r:", tarinfo=SoundHeaders) as tar:
            for entry in tar:
                tar.members = []  # type: ignore[attr-defined]  # else every header stays in memory
                allowance.count()
                yield Member.of_tar(entry, lambda entry=entry: _content(tar, entry))  # type: ignore[misc]
        if opener:
            _read_to_end(forward)


def check_compression(archive: Path) -> None:
    """Read a compressed archive to its end, which holds its checksum; a tar file has no checksum of its content.

    Raises:
        DataError: The checksum does not match, or the file is cut.
    """
    opener = _compressed_reader(archive)
    if opener is None:
        return
    try:
        with opener(archive) as raw:
            _read_to_end(_ForwardFile(raw, Allowance(archive, archive.parent, DEFAULT_LIMITS)))
    except DataError:
        raise
    except PARSER_FAULTS as error:
        raise DataError(f"{archive}: cannot be unpacked ({one_line(error)}); fetch it again") from None


def _read_to_end(file: _ForwardFile) -> None:
    while file.read(_CHUNK_BYTES):
        pass


def _content(tar: tarfile.TarFile, entry: tarfile.TarInfo) -> IO[bytes]:
    content = tar.extractfile(entry)
    assert content is not None  # a regular file has content
    return content


class _ForwardFile(io.RawIOBase):
    """A tar file that is read once from its start to its end.

    `tarfile` would move backwards endlessly for a header with a negative size, and would read as much at once as a
    header of a long name or of attributes announces.
    """

    _STEP_BACK_BYTES = 512
    _LARGEST_READ_BYTES = 8 << 20

    def __init__(self, raw: IO[bytes], allowance: Allowance) -> None:
        self._raw, self._allowance, self._furthest = raw, allowance, 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True: forward seeks are supported."""
        return True

    def tell(self) -> int:
        """Return the position in the tar file."""
        return self._raw.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move forward, or back to the last byte of a member."""
        if whence != io.SEEK_SET or offset < self._raw.tell() - self._STEP_BACK_BYTES:
            raise tarfile.ReadError("a header leads backwards")
        while (ahead := offset - self._raw.tell()) > 0:  # in steps: a huge one would be unpacked for nothing
            step = min(ahead, self._LARGEST_READ_BYTES)
            if len(self._count(self._raw.read(step))) < step:
                break
        return self._raw.tell() if offset > self._raw.tell() else self._raw.seek(offset)

    def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes."""
        if size < 0 or size > self._LARGEST_READ_BYTES:
            raise tarfile.ReadError(f"a header announces {size} bytes of names and attributes")
        return self._count(self._raw.read(size))

    def _count(self, content: bytes) -> bytes:
        place = self._raw.tell()
        self._allowance.pass_over(max(0, place - self._furthest))
        self._furthest = max(self._furthest, place)
        return content


def _compressed_reader(path: Path) -> Callable[[Path], Any] | None:
    with path.open("rb") as file:
        start = file.read(6)
    return next((opener for magic, opener in _MAGIC.items() if start.startswith(magic)), None)


def _is_zip(path: Path) -> bool:
    """Check whether a file ends like a zip and does not begin like a compressed tar."""
    if _compressed_reader(path) is not None:
        return False
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:
        return True  # a zip split over several disks
