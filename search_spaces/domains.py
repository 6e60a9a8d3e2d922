"""Domains: the values that one searched name may take.

A domain is frozen data with a rule of its own; `search_spaces.space` puts domains together. The same classes are
built from Python and, through pydantic, from YAML and from `--set` on the command line.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import (
    AllowInfNan,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    Tag,
    model_validator,
)

Finite = Annotated[StrictFloat, AllowInfNan(False)]
Scalar = StrictBool | StrictInt | Finite | StrictStr
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
_LARGEST_INT = 2**53
"""Largest bound of an `IntDomain`: samplers compute with floats, which are exact for whole numbers up to here."""
_MOST_CHOICES = 1_000
_MOST_SHOWN = 10
Condition = Mapping[str, Scalar | tuple[Scalar, ...]]


class _Domain(BaseModel, ABC):
    """Base of all domains: frozen, without unknown keys, and possibly conditional.

    Args:
        when: Name of a choice to its value(s) with which the domain takes part; all of them must hold.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    when: Condition = {}

    @abstractmethod
    def corners(self) -> tuple[Any, ...]:
        """Return the extreme values, the ones a validity rule is most likely to refuse."""

    @abstractmethod
    def contains(self, value: Any) -> bool:
        """Return whether the domain can draw this value.

        A whole number counts as a real one, a bool never as a number.
        """

    @abstractmethod
    def __str__(self) -> str:
        """Return the values in words, such as `0.001 to 0.1`, for messages."""

    def is_active(self, values: Mapping[str, Any]) -> bool:
        """Return whether the conditions hold for the values drawn so far; without its parent none holds."""
        return all(parent in values and values[parent] in as_tuple(wanted) for parent, wanted in self.when.items())


class FloatDomain(_Domain):
    """Real interval, uniform or log-uniform, or a grid of `step`.

    Args:
        low: Smallest value, included.
        high: Largest value, included.
        log: True to draw uniformly in the logarithm; needs low above 0 and excludes `step`.
        step: Distance between neighbouring values; None for a continuum.
    """

    type: Literal["float"] = "float"
    low: Number
    high: Number
    log: StrictBool = False
    step: Number | None = None

    @model_validator(mode="after")
    def _check(self) -> FloatDomain:
        _check_bounds(self.low, self.high, log=self.log, step=self.step)
        if not math.isfinite(self.high - self.low):
            raise ValueError(f"low is {self.low} and high is {self.high}; they are too far apart. Use a log scale")
        if self.step is not None and (self.low + self.step == self.low or self.high - self.step == self.high):
            raise ValueError(f"step is {self.step}; too small to tell neighbouring values apart. Leave it out")
        return self

    @property
    def steps(self) -> int:
        """Steps from low to the last value of the grid; 0 for a continuum."""
        if self.step is None:
            return 0
        return int((Decimal(str(self.high)) - Decimal(str(self.low))) / Decimal(str(self.step)))

    def grid_value(self, index: int) -> float:
        """Return the value `index` steps above low in decimal arithmetic: 0.9 after three steps of 0.3."""
        return self.low if self.step is None else float(Decimal(str(self.low)) + index * Decimal(str(self.step)))

    def nearest(self, value: float) -> float:
        """Return the value of the grid closest to a value with rounding errors; the same for a continuum."""
        if self.step is None:
            return value
        return self.grid_value(min(max(round((value - self.low) / self.step), 0), self.steps))

    def corners(self) -> tuple[float, ...]:
        """Return both ends, of the grid where there is a step."""
        return (self.low, self.high if self.step is None else self.grid_value(self.steps))

    def __str__(self) -> str:
        return _range_in_words(self.low, self.high, self.step)

    def contains(self, value: Any) -> bool:
        """Return whether a number lies between the ends and, where there is a step, on the grid up to rounding."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if self.step is None:
            return self.low <= value <= self.high
        return math.isclose(value, self.nearest(value), rel_tol=1e-12, abs_tol=1e-8 * self.step)


class IntDomain(_Domain):
    """Whole numbers from low to high, both included.

    Args:
        low: Smallest value.
        high: Largest value.
        log: True to draw uniformly in the logarithm; needs low of at least 1 and excludes a step above 1.
        step: Distance between neighbouring values; at least 1.
    """

    type: Literal["int"] = "int"
    low: StrictInt
    high: StrictInt
    log: StrictBool = False
    step: StrictInt = 1

    @model_validator(mode="after")
    def _check(self) -> IntDomain:
        _check_bounds(self.low, self.high, log=self.log, step=self.step if self.step != 1 else None)
        if max(abs(self.low), abs(self.high), self.step) > _LARGEST_INT:
            raise ValueError(f"whole numbers are searched up to {_LARGEST_INT}")
        return self

    def corners(self) -> tuple[int, ...]:
        """Return both ends of the grid."""
        return (self.low, self.low + (self.high - self.low) // self.step * self.step)

    def __str__(self) -> str:
        return f"whole numbers, {_range_in_words(self.low, self.high, self.step if self.step != 1 else None)}"

    def contains(self, value: Any) -> bool:
        """Return whether a whole number lies between the ends and on the grid."""
        if isinstance(value, bool) or not isinstance(value, int):
            return False
        return self.low <= value <= self.high and (value - self.low) % self.step == 0


class ChoiceDomain(_Domain):
    """Choice of one of a few unordered values.

    Args:
        choices: Values, at least one, all different.
    """

    type: Literal["choice"] = "choice"
    choices: tuple[Scalar, ...]

    @model_validator(mode="after")
    def _check(self) -> ChoiceDomain:
        if not self.choices:
            raise ValueError("choices is empty; name at least one value")
        if len(self.choices) > _MOST_CHOICES:
            raise ValueError(f"choices has {len(self.choices):,} values; at most {_MOST_CHOICES:,}. Use low and high")
        if len(set(map(repr, self.choices))) < len(self.choices):
            raise ValueError("choices repeats a value; name each once")
        return self

    def corners(self) -> tuple[Scalar, ...]:
        """Return every value."""
        return self.choices

    def __str__(self) -> str:
        more = f" and {len(self.choices) - _MOST_SHOWN} more" if len(self.choices) > _MOST_SHOWN else ""
        return f"{', '.join(map(str, self.choices[:_MOST_SHOWN]))}{more}"

    def contains(self, value: Any) -> bool:
        """Return whether a value is one of the choices, of the same type."""
        return any(value == choice and type(value) is type(choice) for choice in self.choices)


class ConstantDomain(_Domain):
    """Single value: removes a name from the search without removing it from the file."""

    type: Literal["constant"] = "constant"
    value: Scalar

    def corners(self) -> tuple[Scalar, ...]:
        """Return the value."""
        return (self.value,)

    def __str__(self) -> str:
        return str(self.value)

    def contains(self, value: Any) -> bool:
        """Return whether a value is the constant, of the same type."""
        return bool(value == self.value and type(value) is type(self.value))


def _spell_out(raw: Any) -> Any:
    """Expand a bare scalar to a constant and a bare list to a choice; return anything else unchanged."""
    if isinstance(raw, (bool, int, float, str)):
        return {"value": raw}
    return {"choices": raw} if isinstance(raw, (list, tuple)) else raw


def _kind(raw: Any) -> str | None:
    """Return the tag of a domain: its `type`, or the one that its keys imply."""
    if isinstance(raw, _Domain):
        return str(raw.type)  # type: ignore[attr-defined]
    if not isinstance(raw, Mapping):
        return None
    if "type" in raw:
        return str(raw["type"])
    if "choices" in raw:
        return "choice"
    return "constant" if "value" in raw else None


Domain = Annotated[
    Annotated[FloatDomain, Tag("float")]
    | Annotated[IntDomain, Tag("int")]
    | Annotated[ChoiceDomain, Tag("choice")]
    | Annotated[ConstantDomain, Tag("constant")],
    Discriminator(
        _kind,
        custom_error_type="domain_type",
        custom_error_message=(
            "a domain is {type: float, low, high}, {type: int, low, high}, {choices: [...]} or {value: ...}"
        ),
    ),
    BeforeValidator(_spell_out),
]


def as_tuple(value: Any) -> tuple[Any, ...]:
    """Return the values a condition accepts, of which a single one may be written bare."""
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def _range_in_words(low: float, high: float, step: float | None) -> str:
    return f"{low:g} to {high:g}" + (f" in steps of {step:g}" if step is not None else "")


def _check_bounds(low: float, high: float, *, log: bool, step: float | None) -> None:
    if not low <= high:
        raise ValueError(f"low is {low} and high is {high}; low must not exceed high")
    if log and low <= 0:
        raise ValueError(f"low is {low}; a log scale needs low above 0")
    if log and step is not None:
        raise ValueError("log and step exclude each other; drop one")
    if step is not None and step <= 0:
        raise ValueError(f"step is {step}; it must be above 0")
