"""An append-only file of events, one JSON object a line: the durable record everything else is derived from."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from orchestrator.full_disk import no_room, patiently


class Journal:
    """Appends events to a file; each is on disk when `append` returns.

    Args:
        path: Created with its folder when it does not exist; a last line that a crash cut short is taken off.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        _drop_cut_line(path)
        self._file = path.open("ab", buffering=0)
        self._lock = threading.Lock()

    def append(self, event: Mapping[str, Any]) -> None:
        """Writes one event; its values must be plain data. A full disk is waited for."""
        line = json.dumps(event, allow_nan=True).encode() + b"\n"
        with self._lock:
            patiently(lambda: self._write(line), self.path.parent)

    def _write(self, line: bytes) -> None:
        """Writes all of a line, or nothing."""
        before = os.fstat(self._file.fileno()).st_size
        try:
            written = self._file.write(line)
            if written != len(line):
                raise no_room("half an event was written")
            os.fsync(self._file.fileno())
        except OSError:
            self._file.truncate(before)
            raise

    def close(self) -> None:
        """Closes the file; later appends are errors."""
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _drop_cut_line(path: Path) -> None:
    if path.exists():
        content = path.read_bytes()
        os.truncate(path, content.rfind(b"\n") + 1)


def read_events(path: Path, offset: int = 0) -> Iterator[tuple[dict[str, Any], int]]:
    """Complete events from a byte offset on, each with the offset behind it; a half-written last line is left."""
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            yield json.loads(line), offset
