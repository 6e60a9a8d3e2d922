"""Archives as they are downloaded: tar, plain or compressed, and zip."""

from __future__ import annotations

import lzma
import tarfile
import zipfile
import zlib
from pathlib import Path

from orchestrator.errors import DataError

__all__ = ["is_archive", "unpack"]


def is_archive(path: Path) -> bool:
    """Whether a file can be unpacked here, by its content."""
    return path.is_file() and (zipfile.is_zipfile(path) or tarfile.is_tarfile(path))


def unpack(archive: Path, target: Path) -> None:
    """Unpacks an archive, and writes nowhere but beneath the target.

    Raises:
        DataError: The archive is cut or damaged, or would write elsewhere.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as zipped:
                zipped.extractall(target)  # noqa: S202 - drops "..", drives and leading slashes itself
        else:
            with tarfile.open(archive) as tar:
                tar.extractall(target, filter="data")
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError) as error:
        raise DataError(f"{archive}: cannot be unpacked ({error}); fetch it again, and check the free disk") from None
