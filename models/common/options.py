"""Options of networks, the rule of each, and problems with given values."""

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

__all__ = [
    "ImageShape",
    "JointRule",
    "ModelOption",
    "ModelOptionError",
    "OptionProblem",
    "OptionValue",
    "UnknownOptionError",
    "nearest_divisor",
    "nearest_name",
    "no_joint_rule",
    "stages_option",
]

FLAG_LETTERS = ("F", "T")
"""False and true in the short spelling of a sequence of flags."""

OptionValue: TypeAlias = bool | int | float | str | tuple[bool, ...] | tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class OptionProblem:
    """Problem with one option.

    Args:
        option: Name of the option, or `name` for the name of the network itself.
        given: Value as given.
        rule: Rule of this option, as a clause.
        remedy: Remedy, as a sentence.
    """

    option: str
    given: object
    rule: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.option}: got {self.given!r}; {self.rule}. {self.remedy}"


class ModelOptionError(ValueError):
    """Options that a network does not have, or values that they do not take.

    Args:
        problems: All problems, at least one entry.
        model: Name of the network, when known.
    """

    def __init__(self, problems: Sequence[OptionProblem], *, model: str | None = None) -> None:
        self.problems = tuple(problems)
        self.model = model
        lead = f"{model}: " if model else ""
        super().__init__("\n".join(f"{lead}{problem}" for problem in self.problems))


class UnknownOptionError(ModelOptionError, TypeError):
    """Options that do not exist, which Python and timm report as a `TypeError`."""


def nearest_name(unknown: str, known: Iterable[str]) -> str | None:
    """Return the known name most like `unknown`, or None when nothing is close."""
    matches = difflib.get_close_matches(unknown, list(known), n=1, cutoff=0.5)
    return matches[0] if matches else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelOption:
    """Explicit keyword of a network and the values it takes.

    Args:
        name: Keyword.
        type: `int`, `float`, `bool`, `str`, or `tuple` for one bool per stage, which may be written as letters:
            `FFT` is one text, as a search and a file need it.
        default: Value when the keyword is left out.
        description: Effect, in one line.
        low: Smallest number.
        high: Largest number.
        above: Value that a number exceeds.
        odd: True for odd integers only.
        choices: Allowed values of a `str`.
        length: Entries of a `tuple`.
        former_default: Default of version 0.1.0, where it was another one: records of options that leave this one
            out, from that version, mean it.
    """

    name: str
    type: type
    default: OptionValue
    description: str
    low: float | None = None
    high: float | None = None
    above: float | None = None
    odd: bool = False
    choices: tuple[str, ...] = ()
    length: int = 0
    former_default: OptionValue | None = None

    @property
    def rule(self) -> str:
        """Allowed values as a clause, such as `an odd int from 1 to 33`."""
        if self.type is tuple:
            example = ("T" * self.length)[1:] + "F"
            return f"a sequence of {self.length} bools, one per stage, or as many letters such as {example!r}"
        if self.type is bool:
            return "true or false"
        if self.choices:
            return "one of " + ", ".join(map(repr, self.choices))
        if self.type is str:
            return "a string"
        bounds = [f"from {self.low:g}" if self.low is not None else ""]
        bounds += [f"above {self.above:g}" if self.above is not None else ""]
        bounds += [f"to {self.high:g}" if self.high is not None else ""]
        kind = ("an odd int" if self.odd else "an int") if self.type is int else "a finite number"
        return " ".join([kind, *filter(None, bounds)])

    def problem(self, given: object) -> OptionProblem | None:
        """Return the problem with `given`, or None."""
        if self._allows(given):
            return None
        return OptionProblem(self.name, given, f"{self.name} is {self.rule}", f"Use {self.nearest(given)!r}.")

    def normalise(self, given: object) -> OptionValue:
        """Return `given` in the type of the option.

        A list of bools or its letters become a tuple, a whole number a float.

        Raises:
            ModelOptionError: The option does not take this value.
        """
        problem = self.problem(given)
        if problem is not None:
            raise ModelOptionError([problem])
        if self.type is tuple:
            assert isinstance(given, Sequence)
            return tuple(flag == "T" for flag in given) if isinstance(given, str) else tuple(given)
        if self.type is float:
            assert isinstance(given, int | float)
            return float(given)
        assert isinstance(given, bool | int | str)
        return given

    def nearest(self, given: object) -> OptionValue:
        """Return the allowed value closest to `given`; the default where closeness has no meaning."""
        if self.choices and isinstance(given, str):
            return nearest_name(given, self.choices) or self.default
        if self.type not in (int, float) or isinstance(given, bool) or not isinstance(given, int | float):
            return self.default
        if not math.isfinite(given) or (self.above is not None and given <= self.above):
            return self.default
        value: float = max(given, self.low) if self.low is not None else given
        value = min(value, self.high) if self.high is not None else value
        if self.type is float:
            return float(value)
        whole = round(value)
        if self.odd and whole % 2 == 0:
            whole += 1 if self.high is None or whole < self.high else -1
        return whole

    def _allows(self, given: object) -> bool:
        if self.type is tuple:
            if not isinstance(given, Sequence) or len(given) != self.length:
                return False
            return all(flag in FLAG_LETTERS if isinstance(given, str) else isinstance(flag, bool) for flag in given)
        if self.type is bool:
            return isinstance(given, bool)
        if self.type is str:
            return isinstance(given, str) and (not self.choices or given in self.choices)
        if isinstance(given, bool) or not isinstance(given, int if self.type is int else int | float):
            return False
        return self._in_bounds(given)

    def _in_bounds(self, given: float) -> bool:
        if not -float("inf") < given < float("inf"):
            return False
        if self.low is not None and given < self.low:
            return False
        if self.high is not None and given > self.high:
            return False
        if self.above is not None and given <= self.above:
            return False
        return not (self.odd and given % 2 == 0)


@dataclasses.dataclass(frozen=True)
class ImageShape:
    """Size of the images that a network is built for.

    Args:
        height: Height in pixels.
        width: Width in pixels.
        channels: Channels of the images.
    """

    height: int
    width: int
    channels: int


JointRule = Callable[[Mapping[str, OptionValue], ImageShape | None], Sequence[OptionProblem]]
"""Function that returns the problems between options, or between options and images."""


def no_joint_rule(values: Mapping[str, OptionValue], image: ImageShape | None) -> Sequence[OptionProblem]:
    """Return no problems: the rule of networks whose options are independent of each other and of the images."""
    del values, image
    return ()


def stages_option(default: tuple[bool, ...], description: str, *, name: str = "stages") -> ModelOption:
    """Make the option of a flag for each stage.

    Args:
        default: Flags when the option is left out.
        description: Effect of a flag, in one line.
        name: Keyword.
    """
    return ModelOption(name=name, type=tuple, default=default, length=len(default), description=description)


def nearest_divisor(number: int, given: int) -> int:
    """Return the divisor of `number` that is closest to `given`, the smaller one of two."""
    fitting = [divisor for divisor in range(1, number + 1) if number % divisor == 0]
    return min(fitting, key=lambda divisor: abs(divisor - given))
