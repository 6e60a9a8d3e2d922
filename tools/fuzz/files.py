"""Fuzz test of files: damages datasets of every format and checks that each error is one line.

    python tools/fuzz/files.py [--seed 0] [--seconds 60] [--cases 200] [--kind tar --kind manifest]

Each case damages one file of a whole dataset and prepares, opens, inspects or decodes it in a child process. A child
that dies by a signal or takes more than five seconds is a finding, as is any error that is not a `DataError` of one
line. Training and `inspect` must be able to use an accepted file; `silently_accepted` counts those that they cannot.
The summary is JSON; the exit status is 1 if there is a finding. The same seed gives the same cases.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import file_subjects
from damage import damaged
from file_subjects import Subject, subjects

HANG_S = 5.0
_START_S = 60.0
_KEPT = 20


@dataclass
class Summary:
    """Outcomes of a run.

    Args:
        files: Number of damaged files of each kind.
        refused: Number of files refused in one line, by kind.
        accepted: Number of files whose damage does not matter or cannot be detected, by kind.
        tracebacks: Cases with other errors, or errors of several lines.
        crashes: Cases that ended a process by a signal.
        hangs: Cases that took more than `HANG_S`.
        silently_accepted: Accepted cases in which training or `inspect` fails.
        seconds: Duration of the run in seconds.
    """

    files: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    accepted: Counter[str] = field(default_factory=Counter)
    tracebacks: list[str] = field(default_factory=list)
    crashes: list[str] = field(default_factory=list)
    hangs: list[str] = field(default_factory=list)
    silently_accepted: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def findings(self) -> int:
        """Number of findings."""
        return len(self.tracebacks) + len(self.crashes) + len(self.hangs) + len(self.silently_accepted)

    def to_json(self) -> str:
        """Return the counts, and the first cases of each kind of finding, as JSON."""
        lists = ("tracebacks", "crashes", "hangs", "silently_accepted")
        counts = {name: len(getattr(self, name)) for name in lists}
        first = {name: getattr(self, name)[:_KEPT] for name in lists if getattr(self, name)}
        kinds = {name: dict(getattr(self, name)) for name in ("files", "refused", "accepted")}
        return json.dumps({**kinds, **counts, "seconds": round(self.seconds, 1), "first": first}, indent=1)


def fuzz(seed: int, cases: int, seconds: float, kinds: Sequence[str] = ()) -> Summary:
    """Damage files in turn until each kind has had its cases, or the time is up.

    Args:
        seed: Seed of all damage.
        cases: Number of cases for each kind of file.
        seconds: Limit of the whole run in seconds.
        kinds: Names of kinds; empty for all.
    """
    summary, started = Summary(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz-files-") as folder:
        chosen = [subject for subject in subjects(Path(folder)) if not kinds or subject.kind in kinds]
        turns = [(subject, case) for case in range(cases) for subject in chosen]
        while turns and (left := seconds - (time.monotonic() - started)) > 0:
            turns = _one_process(turns, seed, Path(folder), left, summary)
    summary.seconds = time.monotonic() - started
    return summary


def _one_process(
    turns: list[tuple[Subject, int]], seed: int, folder: Path, seconds: float, summary: Summary
) -> list[tuple[Subject, int]]:
    """Run cases in a child until it dies, hangs or is done; return the remaining cases."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_run_cases, args=(turns, seed, folder, theirs), daemon=True)
    child.start()
    theirs.close()
    done, deadline = 0, time.monotonic() + seconds
    try:
        while done < len(turns) and time.monotonic() < deadline:
            subject, case = turns[done]
            name = f"{subject.kind} {case}"
            if not ours.poll(HANG_S if done else _START_S):
                summary.hangs.append(name)
                summary.files[subject.kind] += 1
                return turns[done + 1 :]
            try:
                verdict, text = ours.recv()
            except EOFError:
                child.join()
                summary.crashes.append(f"{name}: exit status {child.exitcode}")
                summary.files[subject.kind] += 1
                return turns[done + 1 :]
            done += 1
            summary.files[subject.kind] += 1
            found = getattr(summary, verdict)
            if isinstance(found, Counter):
                found[subject.kind] += 1
            else:
                found.append(f"{name}: {text}")
        return []
    finally:
        child.kill()
        child.join()


def _run_cases(turns: list[tuple[Subject, int]], seed: int, folder: Path, report: Connection) -> None:
    logging.disable(logging.CRITICAL)
    for subject, case in turns:
        place = folder / "case"
        with suppress(FileNotFoundError):
            shutil.rmtree(place)
        place.mkdir()
        with suppress(BrokenPipeError):
            report.send(_verdict(subject, np.random.default_rng([seed, case, subject.number]), place))


def _verdict(subject: Subject, generator: np.random.Generator, place: Path) -> tuple[str, str]:
    """Run a case and return the field of the summary that it belongs to, and its text."""
    try:
        content = damaged(subject.content, generator, subject.structured)
        use = subject.place(content, place)
    except OSError as error:
        return "tracebacks", f"the case itself: {error}"
    text = _answer(use)
    if text is None:
        later = _answer(lambda: subject.check(place))
        return ("silently_accepted", later) if later else ("accepted", "")
    return ("refused", text) if not text.startswith("!") else ("tracebacks", text)


def _answer(use: Callable[[], object]) -> str | None:
    """Return the text of the error; None without one, and a leading `!` for an error that no user should see."""
    try:
        use()
    except file_subjects.REFUSALS as error:
        text = str(error)
        first, *more = text.splitlines() or [""]
        one = all(line.startswith("  ") for line in more)  # a list of images follows a line
        if one and 0 < len(first) < 1200 and text.replace("\n", "").isprintable():
            return text
        return f"!not one printable line: {text[:300]!a}"
    except BaseException:
        return "!" + traceback.format_exc(limit=-3)[-900:]
    return None


def main(arguments: Iterator[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--cases", type=int, default=200, help="number of cases for each kind")
    parser.add_argument("--kind", action="append", default=[])
    chosen = parser.parse_args(None if arguments is None else list(arguments))
    summary = fuzz(chosen.seed, chosen.cases, chosen.seconds, chosen.kind)
    sys.stdout.write(summary.to_json() + "\n")
    return 1 if summary.findings else 0


if __name__ == "__main__":
    sys.exit(main())
