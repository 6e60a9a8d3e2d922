"""Ratios of benchmarks with their spread, the file of recorded ones, and the comparison of both."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, ValidationError, model_validator

__all__ = [
    "TOLERANCE",
    "Better",
    "Block",
    "Comparison",
    "Ratio",
    "RecordError",
    "Verdict",
    "compare",
    "read_recorded",
    "write_recorded",
]

TOLERANCE = 0.1
"""Share by which a ratio has to get worse to be reported."""


class RecordError(Exception):
    """File of recorded ratios that is missing or damaged; the text has the remedy."""


class Better(StrEnum):
    """Direction in which a ratio is better."""

    HIGHER = "higher"
    LOWER = "lower"


class Ratio(BaseModel):
    """Ratio of a benchmark: its median over repetitions within one run, and the quartiles.

    Args:
        median: Median.
        low: First quartile.
        high: Third quartile.
        better: Direction in which it is better.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    median: Annotated[PositiveFloat, Field(allow_inf_nan=False)]
    low: Annotated[PositiveFloat, Field(allow_inf_nan=False)]
    high: Annotated[PositiveFloat, Field(allow_inf_nan=False)]
    better: Better

    @model_validator(mode="after")
    def _ordered(self) -> Ratio:
        if not self.low <= self.median <= self.high:
            raise ValueError(f"low <= median <= high does not hold: {self.low}, {self.median}, {self.high}")
        return self

    @classmethod
    def of(cls, values: Sequence[float], better: Better) -> Ratio:
        """Return median and quartiles of values, at least one."""
        low, _, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [*values] * 3
        rounded = (float(f"{value:.4g}") for value in (statistics.median(values), low, high))
        median, low, high = rounded
        return cls(median=median, low=low, high=high, better=better)

    def __str__(self) -> str:
        return f"{self.median:.4g} ({self.low:.4g} to {self.high:.4g})"


class Block(BaseModel):
    """Ratios of one measurement, and where they are from.

    Args:
        commit: Commit that was measured; `+` behind it stands for changes that were not committed.
        date: Day of the measurement.
        machine: Processor, cores, and versions of Python, torch and Ray.
        command: Command that was run, from the root of the checkout.
        ratios: Ratios by their names.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    commit: str
    date: str
    machine: str
    command: str
    ratios: dict[str, Ratio] = Field(min_length=1)


class Verdict(StrEnum):
    """Result of the comparison of one ratio."""

    WORSE = "WORSE"
    WITHIN_SPREAD = "worse, within spread"
    SAME = "same"
    BETTER = "better"
    NEW = "new"
    MISSING = "MISSING"


@dataclass(frozen=True)
class Comparison:
    """Ratio beside the recorded one.

    Args:
        name: Measurement and ratio.
        verdict: Result.
        recorded: Recorded ratio; None for a new one.
        found: Ratio of this run; None for one that was not measured again.
        change: Share by which it is worse; negative where it is better, 0 for a new or a missing one.
    """

    name: str
    verdict: Verdict
    recorded: Ratio | None
    found: Ratio | None
    change: float

    @property
    def fails(self) -> bool:
        """True where the check fails for it."""
        return self.verdict in (Verdict.WORSE, Verdict.MISSING)


def compare(
    recorded: Mapping[str, Ratio], found: Mapping[str, Ratio], *, tolerance: float = TOLERANCE
) -> list[Comparison]:
    """Compare the ratios of a run with the recorded ones, in the order of the recorded ones, new ones last.

    A ratio is worse when its median is by more than the tolerance, and its quartiles lie outside of the recorded ones;
    where they overlap, that is reported as within the spread.

    Args:
        recorded: Recorded ratios by name.
        found: Ratios of this run by name.
        tolerance: Share by which a median may be worse.
    """
    both = [_compared(name, before, found.get(name), tolerance) for name, before in recorded.items()]
    new = [Comparison(name, Verdict.NEW, None, now, 0.0) for name, now in found.items() if name not in recorded]
    return both + new


def _compared(name: str, before: Ratio, now: Ratio | None, tolerance: float) -> Comparison:
    if now is None or now.better is not before.better:  # with the other direction it is another ratio
        return Comparison(name, Verdict.MISSING, before, now, 0.0)
    higher = before.better is Better.HIGHER
    change = before.median / now.median - 1 if higher else now.median / before.median - 1
    outside = now.high < before.low if higher else now.low > before.high
    if change > tolerance:
        verdict = Verdict.WORSE if outside else Verdict.WITHIN_SPREAD
    else:
        verdict = Verdict.BETTER if change < -tolerance else Verdict.SAME
    return Comparison(name, verdict, before, now, change)


def read_recorded(path: Path) -> dict[str, Block]:
    """Return the recorded blocks by the names of their measurements.

    Args:
        path: File of recorded ratios.

    Raises:
        RecordError: The file is missing, is no JSON, or has a wrong value; the first one is named.
    """
    record = "Record again with: make bench-check UPDATE=1"
    remedy = f"Remove it. {record}"
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecordError(f"{path}: no ratios are recorded. {record}") from None
    except (OSError, ValueError) as error:
        raise RecordError(f"{path}: cannot be read: {error}. {remedy}") from None
    if not isinstance(content, dict):
        raise RecordError(f"{path}: got {type(content).__name__}; measurements by name are expected. {remedy}")
    blocks = {}
    for name, block in content.items():
        try:
            blocks[name] = Block.model_validate(block)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in (name, *first["loc"]))
            raise RecordError(f"{path}: {where}: got {first['input']!r}: {first['msg']}. {remedy}") from None
    return blocks


def write_recorded(path: Path, blocks: Mapping[str, Block]) -> None:
    """Write blocks by the names of their measurements."""
    content = {name: block.model_dump(mode="json") for name, block in sorted(blocks.items())}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
