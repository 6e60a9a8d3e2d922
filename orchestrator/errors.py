"""Errors for users.

Every error raised on purpose is a `SpatialSweepError`; the command line prints its text and exits with 2 (bad input)
or 1 (a fault at run time) instead of showing a traceback.
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.uris import without_secrets


class SpatialSweepError(Exception):
    """Root of all errors that SpatialSweep raises on purpose; secrets in its text are masked."""

    def __str__(self) -> str:
        return without_secrets(super().__str__())


@dataclass(frozen=True)
class Problem:
    """Problem in a configuration.

    Args:
        where: Dotted path of the setting, such as `search.lr.low`.
        message: Given value, rule and remedy.
    """

    where: str
    message: str

    def __str__(self) -> str:
        return without_secrets(f"{self.where}: {self.message}" if self.where else self.message)


class ConfigError(SpatialSweepError, ValueError):
    """Configuration that is not valid; holds all problems found, not only the first.

    Args:
        problems: Problems, at least one.
        source: Name of the file of the settings; None for settings from Python.
    """

    def __init__(self, problems: Iterable[Problem], source: str | None = None) -> None:
        self.problems = tuple(problems)
        self.source = source
        prefix = f"{source}: " if source else ""
        super().__init__("\n".join(f"{prefix}{problem}" for problem in self.problems))

    def with_source(self, source: str) -> ConfigError:
        """Return the same problems, attributed to a file."""
        return ConfigError(self.problems, source)


class SweepNameError(SpatialSweepError, ValueError):
    """Name of a sweep that does not exist, exists already, or is being run by another driver."""


class ResumeError(SpatialSweepError, ValueError):
    """Resumption of a sweep with a change that affects its results."""


class JournalError(SpatialSweepError, ValueError):
    """Journal with a line that is damaged, or that a newer version has written.

    Args:
        path: Path of the journal.
        fault: Fault, on one line.
        line: Number of the line, from 1; None when unknown.
        byte: Offset of the line in bytes; None when the file cannot be read at all.
        newer: Whether a newer version has written the line, so that it is not damaged.
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


class UnsupportedRayError(SpatialSweepError, ImportError):
    """Version of Ray without names that SpatialSweep uses."""


class SpaceExhaustedError(SpatialSweepError, ValueError):
    """Search that proposes only configurations that are rejected; the text counts the reasons."""


class DataError(SpatialSweepError, ValueError):
    """Dataset that is missing, damaged or not the one the sweep expects."""


class UnsafePathError(SpatialSweepError, ValueError):
    """Untrusted name or path that leaves the folder it belongs to."""


class CheckpointError(SpatialSweepError, ValueError):
    """Checkpoint that cannot be found or read."""


class ExportError(SpatialSweepError, ValueError):
    """Network that cannot be exported as requested, or whose exported form computes other values."""


class ExportTargetError(ExportError):
    """File that an export cannot write."""


class ExplainError(SpatialSweepError, ValueError):
    """Network that cannot be explained as requested."""


class RecipeError(SpatialSweepError, ValueError):
    """Recipe that does not exist."""


class ReproduceError(SpatialSweepError, ValueError):
    """Table of a paper that does not exist, or cannot be reproduced as requested."""


class ClusterError(SpatialSweepError, RuntimeError):
    """Cluster that cannot run the sweep, or does not answer."""


class RayLostError(ClusterError):
    """Ray instance that ended during a session; disconnecting from it blocks for a minute."""


class TrackingError(SpatialSweepError, RuntimeError):
    """Tracking server that refuses events, or does not answer."""


class StorageFullError(SpatialSweepError, OSError):
    """Storage that has had no room for a checkpoint, or for an event of the journal, for minutes."""


class StorageError(SpatialSweepError, RuntimeError):
    """Database of the studies that does not answer, or cannot be used."""


class TrialFailedError(SpatialSweepError, RuntimeError):
    """Trial that failed; the text is the reason."""


class TrialDivergedError(SpatialSweepError, ArithmeticError):
    """Trial whose training loss is no longer finite, as a result of its configuration; the text names the step."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text that is not blank, or the name of its class where there is none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def did_you_mean(given: str, known: Sequence[str], otherwise: str | None = None) -> str:
    """Return the remedy for an unknown name: the nearest known name.

    Args:
        given: Unknown name.
        known: Known names.
        otherwise: Remedy when none is near; None lists all known names.
    """
    near = difflib.get_close_matches(given, known, n=1, cutoff=0.6)
    if near:
        return f"Did you mean '{near[0]}'?"
    if otherwise is not None:
        return otherwise
    return f"Known: {', '.join(known)}." if known else ""
