"""Append-only file of events, one JSON object per line: the durable record from which all other state is derived."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from orchestrator.disk_space import disk_full_error, is_full, retry_while_full
from orchestrator.errors import JournalError, StorageFullError
from orchestrator.records.events import FORMAT, Event, SweepStarted
from orchestrator.records.lines import LONGEST_LINE, Line, LineError, names_newer_format, parse, seal


class Journal:
    """Writer of a journal; an event is on disk when `append` returns.

    One process writes a journal: the driver, which holds the lock of the folder. Any of its threads may append.

    Args:
        path: Path of the journal, created with its folder when absent; an incomplete last line is removed.
        gives_up: Returns whether to wait no longer for room on a full disk, as where the user ends the sweep at once.
    """

    def __init__(self, path: Path, gives_up: Callable[[], bool] = lambda: False) -> None:
        self.path = path
        self._gives_up = gives_up
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lines = _drop_cut_line(path)
        self._file = path.open("ab", buffering=0)
        self._lock = threading.Lock()
        self._is_disk_full = False

    def append(self, event: Event, *, waits: bool = True) -> None:
        """Append one event, whose values are plain data; block while the disk is full.

        Args:
            event: The event.
            waits: Whether it waits for room; one that does not leaves the wait of others as it is.

        Raises:
            StorageFullError: The disk has had no room for minutes, or the user has ended the wait; later events do not
                wait for it again.
            OSError: The event cannot be written for another reason.
        """
        with self._lock:
            line = seal(event, self._lines + 1)
            patience_s = 0.0 if self._is_disk_full or not waits else None
            write = partial(self._write, line)
            try:
                retry_while_full(write, self.path.parent, patience_s=patience_s, gives_up=self._gives_up)
            except OSError as error:
                if not is_full(error):
                    raise
                self._is_disk_full = self._is_disk_full or waits
                raise StorageFullError(f"the disk is full: {self.path}: {error.strerror}") from None
            self._is_disk_full = False
            self._lines += 1

    def _write(self, line: bytes) -> None:
        """Write a whole line, or nothing."""
        before = os.fstat(self._file.fileno()).st_size
        try:
            written = self._file.write(line)
            if written != len(line):
                raise disk_full_error("half an event was written")
            os.fsync(self._file.fileno())
        except OSError:
            self._file.truncate(before)
            raise

    def close(self) -> None:
        """Close the file; later appends are errors."""
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _drop_cut_line(path: Path) -> int:
    """Remove an incomplete last line and return the number of lines left."""
    if not path.exists():
        return 0
    content = path.read_bytes()
    os.truncate(path, content.rfind(b"\n") + 1)
    return content.count(b"\n")


@dataclass(frozen=True)
class Entry:
    """Event and its place in the file.

    Args:
        event: The event.
        line: Number of its line, from 1; None when reading began in the middle of an older journal.
        start: Offset of the line in bytes.
        end: Offset after the line in bytes.
    """

    event: Event
    line: int | None
    start: int
    end: int


def raw_lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield complete lines, each at most a byte longer than the limit of the reader.

    Args:
        file: Journal, positioned at the beginning of a line; an incomplete last line is left out.
    """
    while raw := file.readline(LONGEST_LINE + 1):
        if raw.endswith(b"\n"):
            yield raw
        elif len(raw) > LONGEST_LINE:
            yield raw
            return
        else:
            return


def read_entries(path: Path, offset: int = 0) -> Iterator[Entry]:
    """Yield the events of a journal with their places.

    Args:
        path: Path of the journal.
        offset: Offset in bytes to begin at, which is the beginning of a line.

    Raises:
        JournalError: A line is damaged, or the file cannot be read.
    """
    with _opened(path) as file:
        sealed = _is_sealed(path, file)
        file.seek(offset)
        number, start = 1 if offset == 0 else None, offset
        for raw in raw_lines(file):
            try:
                line = parse(raw)
                _refuse_misplaced(line, number, sealed=sealed)
            except LineError as fault:
                raise JournalError(path, str(fault), line=number, byte=start, newer=fault.newer) from None
            number = line.number if number is None else number
            yield Entry(line.event, number, start, start + len(raw))
            number, start = None if number is None else number + 1, start + len(raw)


def read_events(path: Path, offset: int = 0) -> Iterator[tuple[Event, int]]:
    """Yield complete events from an offset in bytes on, each with the offset after it.

    Raises:
        JournalError: A line is damaged, or the file cannot be read.
    """
    for entry in read_entries(path, offset):
        yield entry.event, entry.end


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise JournalError(path, f"it cannot be read: {error.strerror or error}") from error


def _is_sealed(path: Path, file: BinaryIO) -> bool:
    """Return whether every line must have a checksum, as the format in the first event requires."""
    first = next(raw_lines(file), None)
    if first is None:
        return False
    try:
        line = parse(first)
    except LineError as fault:
        newer = names_newer_format(first)
        if newer is None or (not fault.newer and "checksum" in str(fault)):
            return False  # its own fault is reported when the line is read
        raise JournalError(
            path, f"it has format {newer}; this version reads up to {FORMAT}", line=1, byte=0, newer=True
        ) from None
    return isinstance(line.event, SweepStarted) and line.event.format >= FORMAT


def _refuse_misplaced(line: Line, number: int | None, *, sealed: bool) -> None:
    if line.number is None:
        if sealed:
            raise LineError("it has no checksum, unlike every line of this format")
    elif number is not None and line.number != number:
        raise LineError(f"it was written as line {line.number}: lines before it are missing, repeated or moved")
