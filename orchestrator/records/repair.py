"""Repair of a damaged journal: intact lines are kept and put in order, and the damaged file is kept beside it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from orchestrator.errors import JournalError
from orchestrator.records.events import Event, SweepStarted
from orchestrator.records.folder.first_event import rebuild_first_event
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.records.history import History, read_begun
from orchestrator.records.lines import LONGEST_LINE, LineError, names_newer_format, parse, require_usable_settings, seal


@dataclass(frozen=True)
class Repair:
    """Outcome of a repair, or of its dry run.

    Args:
        name: Name of the sweep.
        kept: Number of events kept.
        dropped: Line number in the damaged file and fault of each line that is not kept.
        notices: Further changes, as text.
        original: Path of the damaged file; None when nothing was written.
    """

    name: str
    kept: int
    dropped: Sequence[tuple[int, str]] = ()
    notices: Sequence[str] = ()
    original: Path | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the outcome as plain data for JSON."""
        return {
            "name": self.name,
            "kept": self.kept,
            "dropped": [{"line": place, "fault": fault} for place, fault in self.dropped],
            "notices": list(self.notices),
            "original": None if self.original is None else str(self.original),
        }

    @property
    def was_needed(self) -> bool:
        """True if the journal was damaged."""
        return bool(self.dropped or self.notices)


@dataclass(frozen=True)
class _IntactLine:
    """Intact line of a damaged file: its event, its place there, and the number stored in it."""

    event: Event
    place: int
    number: int | None
    raw: bytes


def repair(folder: SweepFolder, *, dry_run: bool = False) -> Repair:
    """Rewrite a journal with its intact lines only; an intact journal is left as it is.

    The lock of the folder is held meanwhile.

    Args:
        folder: Folder of the sweep.
        dry_run: Whether to report only, without writing.

    Raises:
        SweepNameError: A driver is running the sweep.
        JournalError: A newer version has written the journal, or its first event is lost and cannot be rebuilt.
    """
    with folder.driven():
        try:
            read_begun(folder.journal)
        except JournalError as error:
            if error.newer or error.byte is None:
                raise
            return _JournalRepair(folder).run(dry_run=dry_run)
        with folder.journal.open("rb") as file:
            return Repair(folder.name, sum(raw.endswith(b"\n") for raw in _raw_lines(file)))


class _JournalRepair:
    """Repair of one journal whose folder this process has locked."""

    def __init__(self, folder: SweepFolder) -> None:
        self._folder = folder
        self._dropped: list[tuple[int, str]] = []
        self._notices: list[str] = []

    def run(self, *, dry_run: bool) -> Repair:
        found = self._in_order(self._intact_lines())
        kept = self._consistent(self._with_first(found))
        original = None if dry_run else self._write(kept)
        return Repair(self._folder.name, len(kept), sorted(self._dropped), self._notices, original)

    def _intact_lines(self) -> list[_IntactLine]:
        intact: list[_IntactLine] = []
        seen: set[bytes] = set()
        with self._folder.journal.open("rb") as file:
            for place, raw in enumerate(_raw_lines(file), start=1):
                try:
                    if not raw.endswith(b"\n"):
                        raise LineError("it was cut short")
                    line = parse(raw)
                    require_usable_settings(line.event)
                    if raw in seen:
                        raise LineError("it repeats an earlier line")
                except LineError as fault:
                    self._refuse_newer(raw, place, fault)
                    self._dropped.append((place, str(fault)))
                    continue
                seen.add(raw)
                intact.append(_IntactLine(line.event, place, line.number, raw))
        return intact

    def _refuse_newer(self, raw: bytes, place: int, fault: LineError) -> None:
        if fault.newer or (place == 1 and "checksum" not in str(fault) and names_newer_format(raw)):
            raise JournalError(self._folder.journal, str(fault), line=place, byte=0, newer=True)

    def _in_order(self, intact: Sequence[_IntactLine]) -> list[_IntactLine]:
        """Sort the lines as they were written; in a file of this format, drop those without a checksum."""
        first = next((line for line in intact if isinstance(line.event, SweepStarted)), None)
        declared = first is not None and isinstance(first.event, SweepStarted) and first.event.format > 0
        for line in intact:
            if declared and line.number is None:
                self._dropped.append((line.place, "it has no checksum, unlike every line of this format"))
        usable = [line for line in intact if not declared or line.number is not None]
        ordered = sorted(usable, key=lambda line: (line.number is not None, line.number or line.place))
        if ordered != usable:
            self._notices.append("lines stood out of order and were put back")
        numbers = {line.number for line in ordered if line.number is not None}
        lost = max(numbers) - min(numbers) + 1 - len(numbers) if numbers else 0
        lost += min(numbers) - 1 if numbers and len(numbers) == len(ordered) else 0
        if (absent := lost - sum("repeats" not in fault for _, fault in self._dropped)) > 0:
            self._notices.append(f"{absent} line(s) are missing altogether")
        return ordered

    def _with_first(self, ordered: Sequence[_IntactLine]) -> list[_IntactLine]:
        """Put the start of the sweep first; rebuild it when it is lost."""
        place = next((index for index, line in enumerate(ordered) if isinstance(line.event, SweepStarted)), None)
        if place is not None:
            if place:
                self._notices.append("the start of the sweep was not the first line")
            return [ordered[place], *ordered[:place], *ordered[place + 1 :]]
        sealed = all(line.number is not None for line in ordered)
        event, notice = rebuild_first_event(self._folder, [line.event for line in ordered], sealed=sealed)
        self._notices.append(notice)
        return [_IntactLine(event, 0, 1, b""), *ordered]

    def _consistent(self, ordered: Sequence[_IntactLine]) -> list[_IntactLine]:
        history, kept = History(), []
        for line in ordered:
            try:
                history.apply(line.event)
            except LineError as fault:
                self._dropped.append((line.place, f"{fault}, according to the intact lines before it"))
            else:
                kept.append(line)
        return kept

    def _write(self, kept: Sequence[_IntactLine]) -> Path:
        journal = self._folder.journal
        original = _free_name(journal)
        partial = journal.with_suffix(".partial")
        with partial.open("wb") as file:
            for number, line in enumerate(kept, start=1):
                file.write(line.raw if line.number is None else seal(line.event, number))
            file.flush()
            os.fsync(file.fileno())
        shutil.copy2(journal, original)
        _to_disk(original)
        journal.with_name("tracked.json").unlink(missing_ok=True)  # its offsets are those of the damaged file
        partial.replace(journal)
        _to_disk(journal.parent)
        return original


def _raw_lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield every line, including an incomplete last one; only the beginning of a line that is too long."""
    while raw := file.readline(LONGEST_LINE + 1):
        rest = raw
        while len(rest) > LONGEST_LINE and not rest.endswith(b"\n"):
            rest = file.readline(LONGEST_LINE + 1)
        yield raw


def _free_name(journal: Path) -> Path:
    stem = f"journal.damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    names = (journal.with_name(f"{stem}{f'-{count}' if count else ''}.jsonl") for count in range(1_000))
    return next(name for name in names if not name.exists())


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
