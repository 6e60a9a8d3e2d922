"""Makes a damaged journal readable again: sound lines are kept and put in order, the damaged file stays beside it."""

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
from orchestrator.records.first_event import remade_first_event
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.records.history import History, read_begun
from orchestrator.records.lines import LONGEST_LINE, LineError, names_newer_format, parse, refuse_odd_settings, seal


@dataclass(frozen=True)
class Repair:
    """What a repair did, or would do.

    Args:
        name: Name of the sweep.
        kept: Events that are kept.
        dropped: What was wrong with each line that is not, by its number in the damaged file.
        notices: What else is not as it was.
        original: Where the damaged file lies; None where nothing was written.
    """

    name: str
    kept: int
    dropped: Sequence[tuple[int, str]] = ()
    notices: Sequence[str] = ()
    original: Path | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain data for programs."""
        return {
            "name": self.name,
            "kept": self.kept,
            "dropped": [{"line": place, "fault": fault} for place, fault in self.dropped],
            "notices": list(self.notices),
            "original": None if self.original is None else str(self.original),
        }

    @property
    def was_needed(self) -> bool:
        """Whether anything was wrong."""
        return bool(self.dropped or self.notices)


@dataclass(frozen=True)
class _Sound:
    """A sound line of a damaged file: its event, its place there, and the number it was sealed with."""

    event: Event
    place: int
    number: int | None
    raw: bytes


def repair(folder: SweepFolder, *, dry_run: bool = False) -> Repair:
    """Rewrite a journal with its sound lines only; a sound journal is left alone.

    Args:
        folder: Folder of the sweep.
        dry_run: Only says what would be done.

    Raises:
        SweepNameError: A driver is at work on the sweep.
        JournalError: A newer version has written it, or its first event is lost and nothing tells what it was.
    """
    with folder.driven():
        try:
            read_begun(folder.journal)
        except JournalError as error:
            if error.newer or error.byte is None:
                raise
            return _Mender(folder).mend(dry_run=dry_run)
        with folder.journal.open("rb") as file:
            return Repair(folder.name, sum(raw.endswith(b"\n") for raw in _raw_lines(file)))


class _Mender:
    """Repairs one journal, which this process holds."""

    def __init__(self, folder: SweepFolder) -> None:
        self._folder = folder
        self._dropped: list[tuple[int, str]] = []
        self._notices: list[str] = []

    def mend(self, *, dry_run: bool) -> Repair:
        found = self._in_order(self._sound_lines())
        kept = self._consistent(self._with_first(found))
        original = None if dry_run else self._write(kept)
        return Repair(self._folder.name, len(kept), sorted(self._dropped), self._notices, original)

    def _sound_lines(self) -> list[_Sound]:
        sound: list[_Sound] = []
        seen: set[bytes] = set()
        with self._folder.journal.open("rb") as file:
            for place, raw in enumerate(_raw_lines(file), start=1):
                try:
                    if not raw.endswith(b"\n"):
                        raise LineError("it was cut short")
                    line = parse(raw)
                    refuse_odd_settings(line.event)
                    if raw in seen:
                        raise LineError("it repeats an earlier line")
                except LineError as fault:
                    self._refuse_newer(raw, place, fault)
                    self._dropped.append((place, str(fault)))
                    continue
                seen.add(raw)
                sound.append(_Sound(line.event, place, line.number, raw))
        return sound

    def _refuse_newer(self, raw: bytes, place: int, fault: LineError) -> None:
        if fault.newer or (place == 1 and "checksum" not in str(fault) and names_newer_format(raw)):
            raise JournalError(self._folder.journal, str(fault), line=place, byte=0, newer=True)

    def _in_order(self, sound: Sequence[_Sound]) -> list[_Sound]:
        """As the lines were written; in a file of this format those without a checksum are dropped."""
        first = next((line for line in sound if isinstance(line.event, SweepStarted)), None)
        declared = first is not None and isinstance(first.event, SweepStarted) and first.event.format > 0
        for line in sound:
            if declared and line.number is None:
                self._dropped.append((line.place, "it has no checksum, unlike every line of this format"))
        usable = [line for line in sound if not declared or line.number is not None]
        ordered = sorted(usable, key=lambda line: (line.number is not None, line.number or line.place))
        if ordered != usable:
            self._notices.append("lines stood out of order and were put back")
        numbers = {line.number for line in ordered if line.number is not None}
        lost = max(numbers) - min(numbers) + 1 - len(numbers) if numbers else 0
        lost += min(numbers) - 1 if numbers and len(numbers) == len(ordered) else 0
        if (absent := lost - sum("repeats" not in fault for _, fault in self._dropped)) > 0:
            self._notices.append(f"{absent} line(s) are missing altogether")
        return ordered

    def _with_first(self, ordered: Sequence[_Sound]) -> list[_Sound]:
        """Begins with the start of the sweep, which is made anew where it is lost."""
        place = next((index for index, line in enumerate(ordered) if isinstance(line.event, SweepStarted)), None)
        if place is not None:
            if place:
                self._notices.append("the start of the sweep was not the first line")
            return [ordered[place], *ordered[:place], *ordered[place + 1 :]]
        sealed = all(line.number is not None for line in ordered)
        event, notice = remade_first_event(self._folder, [line.event for line in ordered], sealed=sealed)
        self._notices.append(notice)
        return [_Sound(event, 0, 1, b""), *ordered]

    def _consistent(self, ordered: Sequence[_Sound]) -> list[_Sound]:
        history, kept = History(), []
        for line in ordered:
            try:
                history.take(line.event)
            except LineError as fault:
                self._dropped.append((line.place, f"{fault}, as far as the sound lines before it tell"))
            else:
                kept.append(line)
        return kept

    def _write(self, kept: Sequence[_Sound]) -> Path:
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
    """Every line, the last one too where it was cut; of one that is too long, only the beginning."""
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
