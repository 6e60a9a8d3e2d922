"""Options of whole numbers of which a network takes one for all its parts, or one for each of them."""

import dataclasses
from collections.abc import Sequence
from typing import TypeVar

from models.common.options import ModelOption, OptionValue

__all__ = ["NumbersOption", "per_part"]

_SEPARATOR = "-"
Number = TypeVar("Number", int, float)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NumbersOption(ModelOption):
    """Option for one whole number, or for several as a list or as one text such as `8-4`.

    A search and a file need the text. Bounds and `odd` hold for every number.

    Args:
        part: What each number of a list belongs to, such as `stage`.
        longest: Most numbers of a list whose `length` is 0; with a length above 0 a list has that many numbers.
    """

    part: str
    longest: int = 4

    @property
    def rule(self) -> str:
        """Allowed values as a clause."""
        several = f"{self.length}" if self.length else f"up to {self.longest}"
        numbers = self.default if isinstance(self.default, tuple) else (self.default, self.default)
        example = _SEPARATOR.join(map(str, numbers))
        return f"{super().rule}, or {several} of them, one per {self.part}, as a list or such as {example!r}"

    def normalise(self, given: object) -> OptionValue:
        """Return `given` as one number or as a tuple of them.

        Raises:
            ModelOptionError: The option does not take this value.
        """
        numbers = _numbers(given)
        if numbers is None or not self._allows(given):
            return super().normalise(given)
        return numbers

    def nearest(self, given: object) -> OptionValue:
        """Return the nearest number for a number, else the default, a list of them as its text."""
        value = super().nearest(given)
        return _SEPARATOR.join(map(str, value)) if isinstance(value, tuple) else value

    def _allows(self, given: object) -> bool:
        numbers = _numbers(given)
        if numbers is None:
            return super()._allows(given)
        longest = self.length or self.longest
        return (self.length or 1) <= len(numbers) <= longest and all(
            super(NumbersOption, self)._allows(n) for n in numbers
        )


def _numbers(given: object) -> tuple[int, ...] | None:
    """Return the numbers of a list or of a text; None where `given` is neither."""
    if isinstance(given, str):
        parts = given.split(_SEPARATOR)
        return tuple(map(int, parts)) if all(part.isascii() and part.isdigit() for part in parts) else None
    return tuple(given) if isinstance(given, Sequence) and given else None


def per_part(numbers: Number | Sequence[Number], parts: int) -> list[Number]:
    """Return one number for each part, repeated where one stands for all of them."""
    return list(numbers) if isinstance(numbers, Sequence) else [numbers] * parts
