"""Checkpoint files: written whole or not at all, with a checksum, and read without running any code from them.

The file is written by `torch.save` and is therefore a zip archive; the SHA-256 of its bytes is the archive's comment,
which other readers ignore. A truncated or altered file is detected before any of its content is used.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch

from orchestrator.disk_space import disk_full_error, is_full, retry_while_full
from orchestrator.errors import CheckpointError, StorageFullError, first_line

_FORMAT = 2
_PREFIX = b"sha256:"
_COMMENT_BYTES = len(_PREFIX) + 64
_LENGTH_BYTES = 2  # the last field of a zip archive: the length of its comment
_CHUNK_BYTES = 2**20
_SMALL_THINGS_BYTES = 2**20  # all of a checkpoint but its tensors


def save_checkpoint(path: Path, content: Mapping[str, Any], *, previous: Path | None = None) -> None:
    """Write a checkpoint so that a crash, at any time, leaves a whole one; blocks while the disk is full.

    Args:
        path: Target path; its folder is created.
        content: Tensors, numbers, texts, and lists and mappings of them.
        previous: Path to which the former file at `path` is renamed; None deletes it. A crash between the two renames
            leaves the former file there, and none at `path`.

    Raises:
        StorageFullError: The disk has had no room for minutes; nothing was written.
    """
    try:
        partial = retry_while_full(lambda: _write_partial(path, content), path.parent)
    except OSError as error:
        if not is_full(error):
            raise
        raise StorageFullError(f"{path}: {error.strerror}") from None
    if previous is not None and path.exists():
        path.replace(previous)
    partial.replace(path)
    _sync_folder(path.parent)


def read_checkpoint(path: Path, device: torch.device | None = None) -> dict[str, Any]:
    """Verify the checksum of a checkpoint and read it.

    Args:
        path: Path of the file.
        device: Device of its tensors; None keeps the stored one.

    Raises:
        CheckpointError: The file is missing, damaged or of another format.
    """
    verify_checkpoint(path)
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # the writer may be anyone: an unpickler may raise anything
        reason = first_line(error)
        raise CheckpointError(f"{path}: cannot be read as a checkpoint ({reason})") from None
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise CheckpointError(f"{path}: is no checkpoint of this version of SpatialSweep")
    return content


def verify_checkpoint(path: Path) -> None:
    """Verify that a file has the bytes of its checksum.

    Raises:
        CheckpointError: The file is missing, has no checksum, or was altered.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END) - _COMMENT_BYTES
            file.seek(max(size, 0))
            comment = file.read()
            if size < _LENGTH_BYTES or not comment.startswith(_PREFIX):
                raise CheckpointError(
                    f"{path}: is no checkpoint of SpatialSweep, or was cut short (no checksum). Commands take weights "
                    "of another program with --model NETWORK"
                )
            if _digest(file, size) != comment:
                raise CheckpointError(f"{path}: was altered after it was written (its checksum differs)")
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None


def has_checksum(path: Path) -> bool:
    """Return whether a file ends as `save_checkpoint` ends one; its checksum is not verified.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        file.seek(max(file.seek(0, os.SEEK_END) - _COMMENT_BYTES, 0))
        return file.read().startswith(_PREFIX)


def remove_partial_files(folder: Path) -> None:
    """Delete the partial files of writers that were killed."""
    for partial in folder.glob("*.partial"):
        partial.unlink(missing_ok=True)


def _write_partial(path: Path, content: Mapping[str, Any]) -> Path:
    """Write a checkpoint to a partial file in the same folder, or nothing, and return its path.

    Raises:
        OSError: The disk is full, among other causes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _require_room(path, content)
    # Ranks in containers often have the same process id, and a rank that lost its node may write beside its successor.
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        with partial.open("w+b") as file:
            torch.save({"format": _FORMAT, **content}, file)
            _seal(file)
            file.flush()
            os.fsync(file.fileno())
    except Exception:
        partial.unlink(missing_ok=True)
        _require_room(path, content)  # torch may report a full disk as another error
        raise
    return partial


def _require_room(path: Path, content: Mapping[str, Any]) -> None:
    needed, free = _tensor_bytes(content) + _SMALL_THINGS_BYTES, shutil.disk_usage(path.parent).free
    if free < needed:
        raise disk_full_error(
            f"needs {needed / 2**20:.0f} MiB, and {free / 2**20:.0f} MiB are free. Make room there, "
            "lower keep.best or keep.last, or name another runs_dir"
        )


def _tensor_bytes(content: Any) -> int:
    if isinstance(content, torch.Tensor):
        return content.numel() * content.element_size()
    if isinstance(content, Mapping):
        return sum(map(_tensor_bytes, content.values()))
    return sum(map(_tensor_bytes, content)) if isinstance(content, (list, tuple)) else 0


def _seal(file: IO[bytes]) -> None:
    """Write the checksum as the comment of the archive."""
    size = file.seek(-_LENGTH_BYTES, os.SEEK_END) + _LENGTH_BYTES
    file.write(_COMMENT_BYTES.to_bytes(_LENGTH_BYTES, "little"))
    comment = _digest(file, size)
    file.seek(size)
    file.write(comment)


def _digest(file: IO[bytes], size: int) -> bytes:
    """Return the comment for the first `size` bytes of a file."""
    digest, left = hashlib.sha256(), size
    file.seek(0)
    while left > 0 and (chunk := file.read(min(left, _CHUNK_BYTES))):
        digest.update(chunk)
        left -= len(chunk)
    return _PREFIX + digest.hexdigest().encode()


def _sync_folder(folder: Path) -> None:
    """Flush a folder, so that a rename survives a power cut, where the system offers that."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
