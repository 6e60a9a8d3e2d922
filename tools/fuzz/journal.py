"""Fuzz test of journals: damages them at random and counts the outcomes of reading and repairing them.

    python tools/fuzz/journal.py [--files 2000] [--seed 0] [--old] [--seconds 600]

Each file is the journal of a small sweep with one to three kinds of damage: flipped bits, lines that are cut, dropped,
repeated, swapped or moved, values of another type, huge numbers, NUL bytes, bytes that are not UTF-8, deep nesting. It
is read, shown by `status`, `list` and `report`, repaired and read again, all in this process and through the command
line's own functions. Prints JSON:

    calls            number of calls of a command
    tracebacks       calls that ended neither with an answer nor with an error of one line, with the first of them
    hangs            calls that took longer than 5 s
    silent           damaged files that were read as if nothing were wrong, to another result
    prefixes         files whose end is missing, as a crash leaves them, read to a part of the result
    harmless         damage that changed nothing that is read, such as a line swapped with itself
    unrepaired       files that could not be read after a repair without an error
    refused          repairs refused in one line: the start of the sweep is lost and cannot be rebuilt
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
HANG_S = 5.0
OLD = ROOT / "tests" / "orchestrator" / "records" / "old_journal" / "journal.jsonl"
_JUNK = (b"", b"\0" * 64, b"[" * 10_000, b"{}", b"null", b'{"event": 3}', b"\xff\xfe", b"9" * 5_000, b" ")
_VALUES = (
    b"null", b"true", b"-1", b"1e999", b"NaN", b"[]", b"{}", b'""', b'"x"', b"0.5", b"9" * 4_500,
    b"9" * 30, b"[" * 400 + b"]" * 400, b'"\\ud800"', b'"\\u0000"', b'{"a": {"b": []}}', b"-Infinity", b"1e308",
)  # fmt: skip
Lines = list[bytes]


@dataclass
class Counts:
    """Counts of outcomes, and labels of the findings."""

    files: int = 0
    calls: int = 0
    hangs: int = 0
    slowest_s: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    tracebacks: list[str] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)
    unrepaired: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return the counts as plain data, with the first findings."""
        return {
            "files": self.files,
            "calls": self.calls,
            "tracebacks": len(self.tracebacks),
            "hangs": self.hangs,
            "silent": len(self.silent),
            "unrepaired": len(self.unrepaired),
            **{name: self.outcomes[name] for name in ("prefixes", "harmless", "refused", "reported", "repaired")},
            "slowest_s": round(self.slowest_s, 3),
            "first_tracebacks": self.tracebacks[:3],
            "first_silent": self.silent[:3],
            "first_unrepaired": self.unrepaired[:3],
        }


def main() -> int:
    """Run from the command line; return 1 if there is a finding."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=600.0, help="time limit of the run")
    parser.add_argument("--old", action="store_true", help="a journal without checksums, as older versions wrote it")
    arguments = parser.parse_args()
    counts = fuzz(arguments.files, seed=arguments.seed, seconds=arguments.seconds, old=arguments.old)
    sys.stdout.write(json.dumps(counts.as_dict(), indent=2) + "\n")
    silent = [] if arguments.old else counts.silent  # without checksums, a flipped digit cannot be seen
    return int(bool(counts.tracebacks or counts.hangs or silent or counts.unrepaired))


def fuzz(files: int, *, seed: int, seconds: float = 600.0, old: bool = False, reports: bool = True) -> Counts:
    """Damage journals and call every reader on each.

    Args:
        files: Number of journals to damage.
        seed: Seed of all damage.
        seconds: Time in seconds after which no further journal is started.
        old: Whether to damage a journal without checksums.
        reports: Whether to write reports as well, which take longest.
    """
    draw, counts, over = random.Random(seed), Counts(), time.monotonic() + seconds  # noqa: S311
    with tempfile.TemporaryDirectory() as place:
        runs_dir = Path(place)
        lines = _journal(runs_dir, old=old).splitlines(keepends=True)
        _Case(runs_dir, lines, list(lines), "no damage", counts).run(report=reports)  # imports all it needs
        counts = Counts(tracebacks=counts.tracebacks)
        for number in range(files):
            if time.monotonic() > over:
                break
            damaged = list(lines)
            kinds = [_damage(damaged, draw) for _ in range(draw.choice((1, 1, 2, 3)))]
            counts.files += 1
            _Case(runs_dir, lines, damaged, f"file {number}: {', '.join(kinds)}", counts).run(
                report=reports and number % 10 == 0
            )
    return counts


class _Case:
    """Damaged journal, and the calls that read it."""

    def __init__(self, runs_dir: Path, whole: Lines, damaged: Lines, label: str, counts: Counts) -> None:
        self._runs_dir, self._whole, self._label, self._counts = runs_dir, whole, label, counts
        self._content = b"".join(damaged)
        self._folder = runs_dir / "victim"

    def run(self, *, report: bool) -> None:
        from orchestrator.records.folder.sweep_folder import SweepFolder
        from orchestrator.records.repair import repair
        from orchestrator.report import write_report
        from orchestrator.results.comparison import facts_of, status_row
        from orchestrator.results.stored_sweep import read_sweep
        from orchestrator.sweep.compatibility import stored_config

        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir()
        folder = SweepFolder(self._folder)
        folder.journal.write_bytes(self._content)
        if not folder.has_begun:
            return
        status = self._call("status", lambda: facts_of(read_sweep(folder)))
        self._judge(status)
        self._call("list", lambda: status_row(folder))
        self._call("resume", lambda: stored_config(folder))
        if report:
            self._call("report", lambda: write_report(read_sweep(folder), self._runs_dir / "report.html"))
        mended = self._call("repair", lambda: repair(folder))
        if mended is None:
            self._counts.outcomes["refused"] += 1
            return
        self._counts.outcomes["repaired" if mended.was_needed else "sound"] += 1
        again = self._call("status", lambda: facts_of(read_sweep(folder)))
        if again is None:
            self._counts.unrepaired.append(self._label)

    def _judge(self, status: Any) -> None:
        """Count the outcome of reading the damaged journal."""
        if status is None:
            self._counts.outcomes["reported"] += 1
            return
        whole = b"".join(self._whole)
        sound = self._content[: self._content.rfind(b"\n") + 1]
        if sound == whole:
            self._counts.outcomes["harmless"] += 1
        elif whole.startswith(sound):
            self._counts.outcomes["prefixes"] += 1
        else:
            self._counts.silent.append(self._label)

    def _call(self, name: str, call: Callable[[], Any]) -> Any:
        """Call a command and return its result; None when it ended with an error of one line."""
        from orchestrator.errors import ConfigError, SpatialSweepError

        began = time.monotonic()
        found = None
        try:
            found = call()
        except SpatialSweepError as error:
            if "\n" in str(error) and not isinstance(error, ConfigError):  # it has a line for each problem
                self._counts.tracebacks.append(f"{self._label}: {name}: several lines: {error}")
        except BaseException:
            self._counts.tracebacks.append(f"{self._label}: {name}: {traceback.format_exc(limit=-4)}")
        spent = time.monotonic() - began
        self._counts.calls += 1
        self._counts.hangs += spent > HANG_S
        self._counts.slowest_s = max(self._counts.slowest_s, spent)
        return found


def _damage(lines: Lines, draw: random.Random) -> str:
    """Damage a journal once and return a description."""
    if not lines:
        return "nothing left"
    place = draw.randrange(len(lines))
    kind = draw.choice(_DAMAGES)
    kind(lines, place, draw)
    return f"{kind.__name__.strip('_')} at line {place + 1}"


def _flip_a_bit(lines: Lines, place: int, draw: random.Random) -> None:
    _replace(lines, place, draw, lambda byte: byte ^ (1 << draw.randrange(8)))


def _put_a_byte(lines: Lines, place: int, draw: random.Random) -> None:
    _replace(lines, place, draw, lambda _: draw.randrange(256))


def _change_a_digit(lines: Lines, place: int, draw: random.Random) -> None:
    digits = [index for index, byte in enumerate(lines[place]) if chr(byte).isdigit()]
    if digits:
        content = bytearray(lines[place])
        content[draw.choice(digits)] = draw.choice(b"0123456789")
        lines[place] = bytes(content)


def _replace(lines: Lines, place: int, draw: random.Random, change: Callable[[int], int]) -> None:
    if lines[place]:
        content = bytearray(lines[place])
        at = draw.randrange(len(content))
        content[at] = change(content[at])
        lines[place] = bytes(content)


def _cut(lines: Lines, place: int, draw: random.Random) -> None:
    lines[place] = lines[place][: draw.randrange(len(lines[place]) + 1)] + draw.choice((b"", b"\n"))


def _cut_the_file(lines: Lines, place: int, draw: random.Random) -> None:
    del lines[place + 1 :]
    lines[place] = lines[place][: draw.randrange(len(lines[place]) + 1)]


def _drop(lines: Lines, place: int, _: random.Random) -> None:
    del lines[place]


def _repeat(lines: Lines, place: int, draw: random.Random) -> None:
    lines.insert(draw.randrange(len(lines) + 1), lines[place])


def _swap(lines: Lines, place: int, draw: random.Random) -> None:
    other = draw.randrange(len(lines))
    lines[place], lines[other] = lines[other], lines[place]


def _put_junk(lines: Lines, place: int, draw: random.Random) -> None:
    lines[place] = draw.choice(_JUNK) + b"\n"


def _insert_junk(lines: Lines, place: int, draw: random.Random) -> None:
    lines.insert(place, draw.choice(_JUNK) + b"\n")


def _make_a_hole(lines: Lines, place: int, draw: random.Random) -> None:
    start = draw.randrange(len(lines[place]) + 1)
    lines[place] = lines[place][:start] + b"\0" * len(lines[place][start:])


def _put_a_value(lines: Lines, place: int, draw: random.Random) -> None:
    """Replace the value of a key, without renewing the checksum."""
    colons = [index for index in range(len(lines[place])) if lines[place].startswith(b'": ', index)]
    if colons:
        at = draw.choice(colons) + 3
        rest = lines[place][at:]
        end = min((found for mark in (b", ", b"}", b"]") if (found := rest.find(mark)) >= 0), default=0)
        lines[place] = lines[place][:at] + draw.choice(_VALUES) + rest[end:]


def _rename_a_key(lines: Lines, place: int, draw: random.Random) -> None:
    parts = lines[place].split(b'": ')
    if len(parts) > 1:
        chosen = draw.randrange(len(parts) - 1)
        parts[chosen] = parts[chosen][:-1] + draw.choice((b"x", b"_", b"0"))
        lines[place] = b'": '.join(parts)


_DAMAGES: Sequence[Callable[[Lines, int, random.Random], None]] = (
    _flip_a_bit,
    _flip_a_bit,
    _put_a_byte,
    _change_a_digit,
    _cut,
    _cut_the_file,
    _drop,
    _repeat,
    _swap,
    _put_junk,
    _insert_junk,
    _make_a_hole,
    _put_a_value,
    _put_a_value,
    _rename_a_key,
)


def _journal(runs_dir: Path, *, old: bool) -> bytes:
    """Return the journal of a small sweep of two sessions."""
    if old:
        return OLD.read_bytes()
    from orchestrator.records.journal import Journal, read_events

    path = runs_dir / "whole" / "journal.jsonl"
    with Journal(path) as journal:
        for event, _ in read_events(OLD):
            journal.append(_declared(event))
    return path.read_bytes()


def _declared(event: Any) -> Any:
    """Return an event in the current format."""
    from dataclasses import replace

    from orchestrator.records.events import FORMAT, SweepStarted

    return replace(event, format=FORMAT) if isinstance(event, SweepStarted) else event


if __name__ == "__main__":
    sys.exit(main())
