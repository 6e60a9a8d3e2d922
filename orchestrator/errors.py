"""What can go wrong, as a user sees it.

Everything raised on purpose descends from `SpatialSweepError`; the command line prints its text and exits with 2
(bad input) or 1 (a fault during the work) instead of showing a traceback.
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.uris import without_secrets


class SpatialSweepError(Exception):
    """Root of all errors SpatialSweep raises on purpose; its text, which may quote foreign ones, holds no secrets."""

    def __str__(self) -> str:
        return without_secrets(super().__str__())


@dataclass(frozen=True)
class Problem:
    """One fault in a configuration.

    Args:
        where: Dotted path of the setting, such as `search.lr.low`.
        message: What was given, the rule, and the remedy.
    """

    where: str
    message: str

    def __str__(self) -> str:
        return without_secrets(f"{self.where}: {self.message}" if self.where else self.message)


class ConfigError(SpatialSweepError, ValueError):
    """A sweep that cannot start as written; holds every fault found, not only the first.

    Args:
        problems: At least one.
        source: File the settings came from; None when they came from Python.
    """

    def __init__(self, problems: Iterable[Problem], source: str | None = None) -> None:
        self.problems = tuple(problems)
        self.source = source
        prefix = f"{source}: " if source else ""
        super().__init__("\n".join(f"{prefix}{problem}" for problem in self.problems))

    def with_source(self, source: str) -> ConfigError:
        """The same faults, attributed to a file."""
        return ConfigError(self.problems, source)


class SweepNameError(SpatialSweepError, ValueError):
    """A name that no sweep has, that one has already, or whose sweep is being run elsewhere."""


class ResumeError(SpatialSweepError, ValueError):
    """A sweep that is to go on with something that decides its results changed."""


class JournalError(SpatialSweepError, ValueError):
    """A journal with a line that is damaged, or that a newer version has written.

    Args:
        path: The journal.
        fault: What is wrong, in one line.
        line: Its number, from 1; None where it is not known.
        byte: Offset of the line in the file; None where the file cannot be read at all.
        newer: Whether a newer version has written it, so that nothing is damaged.
    """

    def __init__(
        self, path: Path, fault: str, *, line: int | None = None, byte: int | None = None, newer: bool = False
    ) -> None:
        self.path, self.fault, self.line, self.byte, self.newer = path, fault, line, byte, newer
        where = ", ".join(
            [
                str(path),
                *([f"line {line}"] if line is not None else []),
                *([f"byte {byte}"] if byte is not None else []),
            ]
        )
        remedy = "Install the version that wrote it"
        if not newer:
            remedy = f"`spatialsweep repair {shlex.quote(str(path.parent))}` keeps what is sound and says what it drops"
        super().__init__(f"{where}: {fault}" if byte is None else f"{where}: {fault}. {remedy}")


class SpaceExhaustedError(SpatialSweepError, ValueError):
    """A search that proposes nothing but configurations that are rejected; the text counts the reasons."""


class DataError(SpatialSweepError, ValueError):
    """A dataset that is missing, damaged or not what the sweep expects."""


class UnsafePathError(SpatialSweepError, ValueError):
    """A name or path from a file that would leave the folder it belongs to."""


class CheckpointError(SpatialSweepError, ValueError):
    """A checkpoint that cannot be found or read."""


class ExportError(SpatialSweepError, ValueError):
    """A network that cannot be exported as asked, or whose exported form computes something else."""


class ExplainError(SpatialSweepError, ValueError):
    """A network that cannot be looked into as asked."""


class RecipeError(SpatialSweepError, ValueError):
    """A recipe that does not exist."""


class ClusterError(SpatialSweepError, RuntimeError):
    """The cluster cannot run this sweep, or went away."""


class RayLostError(ClusterError):
    """Ray has ended under a session; a process that takes leave of it waits for a minute."""


class TrackingError(SpatialSweepError, RuntimeError):
    """The tracking server refuses what it was sent."""


class StorageError(SpatialSweepError, RuntimeError):
    """The database of the studies does not answer, or cannot be used."""


class TrialFailedError(SpatialSweepError, RuntimeError):
    """Training of one trial ended with an error; the text is its reason."""


class TrialDivergedError(SpatialSweepError, ArithmeticError):
    """The training loss of a trial is no longer a number: a result of its configuration; the text says where."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text that is not blank, or the name of its class where there is none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def did_you_mean(given: str, known: Sequence[str]) -> str:
    """The remedy for an unknown name: the nearest known one, or all of them when none is near."""
    near = difflib.get_close_matches(given, known, n=1, cutoff=0.6)
    if near:
        return f"Did you mean '{near[0]}'?"
    return f"Known: {', '.join(known)}." if known else ""
