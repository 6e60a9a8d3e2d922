"""An append-only file of events, one JSON object a line: the durable record everything else is derived from."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from orchestrator.disk_space import no_room, patiently
from orchestrator.errors import JournalError
from orchestrator.records.events import FORMAT, Event, SweepStarted
from orchestrator.records.lines import LONGEST_LINE, Line, LineError, names_newer_format, parse, seal


class Journal:
    """Appends events to a file; each is on disk when `append` returns.

    Args:
        path: Created with its folder when it does not exist; a last line that a crash cut short is taken off.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lines = _drop_cut_line(path)
        self._file = path.open("ab", buffering=0)
        self._lock = threading.Lock()

    def append(self, event: Event) -> None:
        """Writes one event; its values must be plain data. A full disk is waited for."""
        with self._lock:
            line = seal(event, self._lines + 1)
            patiently(lambda: self._write(line), self.path.parent)
            self._lines += 1

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


def _drop_cut_line(path: Path) -> int:
    """Takes off what a crash cut short; returns how many lines are left."""
    if not path.exists():
        return 0
    content = path.read_bytes()
    os.truncate(path, content.rfind(b"\n") + 1)
    return content.count(b"\n")


@dataclass(frozen=True)
class Entry:
    """An event and where it stands.

    Args:
        event: The event.
        line: Number of its line, from 1; None where the reader began in the middle of an older journal.
        start: Byte at which the line begins.
        end: Byte behind it.
    """

    event: Event
    line: int | None
    start: int
    end: int


def raw_lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield complete lines, none of them longer than a reader takes by more than a byte.

    Args:
        file: The journal, at the beginning of a line; a half-written last line is left.
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
        path: The journal.
        offset: Byte to begin at, which is the beginning of a line.

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
    """Yield complete events from a byte offset on, each with the offset behind it.

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
    """Whether every line has to have a checksum, as the first event says."""
    first = next(raw_lines(file), None)
    if first is None:
        return False
    try:
        line = parse(first)
    except LineError as fault:
        newer = names_newer_format(first)
        if newer is None or (not fault.newer and "checksum" in str(fault)):
            return False  # its own fault is told when it is read
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
