"""Files of a dataset folder: local, or in any storage of `pyarrow.fs` (`s3://`, `gs://`, `hdfs://`).

A file appears whole or not at all: it is written on this machine first, then renamed or uploaded.
"""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pyarrow import fs

from orchestrator.errors import DataError, first_line
from orchestrator.files.home_paths import expanded_location
from orchestrator.uris import without_password

__all__ = ["PARTS", "Folder", "open_folder"]

_CHUNK_BYTES = 8 << 20
_RECORD_BYTES = 64 << 20
PARTS = ".parts"
"""Folder of unfinished files and of the records of finished shards, removed once the manifest is written."""

_WITHOUT_FOLDERS = ("s3", "gcs")


@dataclass(frozen=True)
class Folder:
    """A folder of a dataset.

    Args:
        uri: URI or path of the folder, as written by the user.
        filesystem: File system that holds it.
        path: Path of the folder within the file system.
    """

    uri: str
    filesystem: fs.FileSystem
    path: str

    @property
    def shown(self) -> str:
        """URI for messages: without a password, and without the options of the file system."""
        return without_password(self.uri).partition("?")[0].rstrip("/")

    @property
    def local(self) -> Path | None:
        """Path of a local folder; None for other storage."""
        return Path(self.path) if isinstance(self.filesystem, fs.LocalFileSystem) else None

    def where(self, name: str) -> str:
        """Return the name of a file for messages."""
        return f"{self.shown}/{name}"

    def sizes(self, subfolder: str = "") -> dict[str, int]:
        """Return the sizes in bytes of the files directly in the folder, or in a subfolder, by name."""
        selector = fs.FileSelector(f"{self.path}/{subfolder}".rstrip("/"), allow_not_found=True)
        with self._errors_of(subfolder):
            found = self.filesystem.get_file_info(selector)
        return {info.base_name: info.size for info in found if info.is_file}

    def names(self, subfolder: str) -> set[str]:
        """Return the names of all files and folders directly in a subfolder."""
        selector = fs.FileSelector(f"{self.path}/{subfolder}", allow_not_found=True)
        with self._errors_of(subfolder):
            return {info.base_name for info in self.filesystem.get_file_info(selector)}

    def read(self, name: str, *, most_bytes: int = _RECORD_BYTES) -> bytes | None:
        """Return the content of a file; None if it does not exist.

        Args:
            name: Name of the file within the folder.
            most_bytes: Largest accepted size in bytes.

        Raises:
            DataError: It is larger than `most_bytes`, not a file, or cannot be read.
        """
        with self._errors_of(name):
            info = self.filesystem.get_file_info(f"{self.path}/{name}")
            if info.type == fs.FileType.NotFound:
                return None
            if not info.is_file:
                raise DataError(f"{self.where(name)}: is no file")
            with self.filesystem.open_input_stream(f"{self.path}/{name}") as stream:
                content = bytes(stream.read(most_bytes + 1))
        if len(content) > most_bytes:
            raise DataError(f"{self.where(name)}: has more than {most_bytes} bytes, which no file of its kind has")
        return content

    def write(self, name: str, content: bytes) -> None:
        """Write a small file."""
        with self.building(name) as partial:
            partial.write_bytes(content)

    @contextmanager
    def building(self, name: str) -> Iterator[Path]:
        """Yield a local path to write a file to; the file is moved to the folder if the block succeeds."""
        target = f"{self.path}/{name}"
        parent = Path(target).parent
        scratch = Path(self.path) / PARTS if self.local else Path(tempfile.gettempdir())
        if self.filesystem.type_name not in _WITHOUT_FOLDERS:
            with self._errors_of(name):
                self.filesystem.create_dir(str(parent), recursive=True)
                self.filesystem.create_dir(f"{self.path}/{PARTS}", recursive=True)
        partial = scratch / f".{Path(name).name}.{uuid.uuid4().hex}.partial"
        try:
            yield partial
            with self._errors_of(name):
                if self.local:
                    partial.replace(target)
                else:
                    fs.copy_files(
                        str(partial),
                        target,
                        source_filesystem=fs.LocalFileSystem(),
                        destination_filesystem=self.filesystem,
                        chunk_size=_CHUNK_BYTES,
                    )
        finally:
            partial.unlink(missing_ok=True)

    def fetch(self, name: str, target: Path, check: Callable[[Path], None] = lambda _path: None) -> None:
        """Copy a file to this machine, whole or not at all.

        Args:
            name: Name of the file within the folder.
            target: Path of the copy.
            check: Function called with the copy before it is moved to `target`; if it raises, the copy is removed.

        Raises:
            DataError: The file does not exist, or cannot be read.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial")
        try:
            with self._errors_of(name):
                fs.copy_files(
                    f"{self.path}/{name}",
                    str(partial),
                    source_filesystem=self.filesystem,
                    destination_filesystem=fs.LocalFileSystem(),
                    chunk_size=_CHUNK_BYTES,
                )
            check(partial)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    def remove_folder(self, name: str) -> None:
        """Remove a subfolder, if it exists."""
        with suppress(FileNotFoundError), self._errors_of(name):
            self.filesystem.delete_dir(f"{self.path}/{name}")

    @contextmanager
    def _errors_of(self, name: str) -> Iterator[None]:
        """Translate errors of the file system to `DataError`."""
        try:
            yield
        except FileNotFoundError as error:
            raise DataError(f"{self.where(name)}: {_reason(error)}") from None
        except OSError as error:
            raise DataError(f"{self.where(name)}: the storage refuses ({_reason(error)})") from None


def open_folder(uri: str | Path) -> Folder:
    """Return the folder of a URI or a local path, `~` for the home folder; it need not exist.

    Raises:
        DataError: The scheme is unknown, or its storage cannot be reached.
    """
    text = str(uri)
    try:
        if "://" not in text:
            text = expanded_location(text)
            return Folder(text, fs.LocalFileSystem(), str(Path(text).absolute()))
        filesystem, path = fs.FileSystem.from_uri(text)
        if not path:
            raise ValueError("it names no folder")
    except (ValueError, OSError) as error:
        hint = "Use a path, or a URI such as s3://bucket/folder"
        shown = without_password(text)
        reason = _reason(error).replace(text, shown)
        raise DataError(f"{shown.partition('?')[0]}: cannot be opened ({reason}). {hint}") from None
    return Folder(text, filesystem, path.rstrip("/"))


def _reason(error: Exception) -> str:
    return first_line(error).rstrip(". ")
