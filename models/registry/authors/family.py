"""Description of the authors' code of a paper: their constructor, and their state dict in terms of ours.

A family is described once, as a table from their state-dict keys to slices of ours. Loading a checkpoint,
checking it and reading a gradient back under its original name all follow from the table.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any

from torch import Tensor, nn

__all__ = ["FAMILIES", "AuthorsFamily", "AuthorsOptionError", "Entry", "check_arguments", "register_family"]


class AuthorsOptionError(ValueError):
    """Arguments that the authors' constructor does not take, or of which it makes no network."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """Place in our state dict of one entry of the authors'.

    Args:
        ours: Our key.
        rows: First and last + 1 row of our tensor, where several of theirs are stacked in it; None is all.
        shape: Their shape, where it differs from ours in more than the number of rows.
    """

    ours: str
    rows: tuple[int, int] | None = None
    shape: tuple[int, ...] | None = None

    def slice(self, tensor: Tensor) -> Tensor:
        """Return the part of our tensor that is this entry, in our shape; a view."""
        return tensor if self.rows is None else tensor[self.rows[0] : self.rows[1]]

    def to_authors(self, tensor: Tensor) -> Tensor:
        """Return the part of our tensor (or of its gradient) that is this entry, in their shape."""
        part = self.slice(tensor)
        return part if self.shape is None else part.reshape(self.shape)

    def authors_shape(self, tensor: Tensor) -> tuple[int, ...]:
        """Return the shape of this entry in their state dict."""
        return self.shape or tuple(self.slice(tensor).shape)


def _all_take_part(key: str, network: nn.Module) -> bool:
    del key, network
    return False


def _no_options(name: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    del name, shapes
    return {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class AuthorsFamily:
    """Code of one paper.

    Args:
        name: Name of the family, as in `from_authors`.
        networks: Our classes that belong to it.
        build: Function that makes our network from the arguments of their constructor.
        entries: Function that returns their keys and the place of each in a given network of ours.
        takes_no_part: Function that returns whether a key of theirs is known to have no effect on the result of that
            network; no key is when left out.
        options_of: Function that returns the options of our network of a name that follow from a checkpoint's shapes
            by key; none when left out.
        sized: Ends of our keys whose shapes follow from the size of the images; at another
            size they keep their random weights.
        lost_with_head: Prefixes of their keys, beside those of the classifier, that a backbone without it lacks.
    """

    name: str
    networks: tuple[type[nn.Module], ...]
    build: Callable[[Mapping[str, Any]], nn.Module]
    entries: Callable[[nn.Module], dict[str, Entry]]
    takes_no_part: Callable[[str, nn.Module], bool] = _all_take_part
    options_of: Callable[[str, Mapping[str, tuple[int, ...]]], dict[str, Any]] = _no_options
    sized: tuple[str, ...] = ()
    lost_with_head: tuple[str, ...] = ()


FAMILIES: dict[str, AuthorsFamily] = {}
"""Families whose authors published code, by name; filled as the family modules are imported."""


def register_family(family: AuthorsFamily) -> None:
    """Add a family to `FAMILIES`."""
    FAMILIES[family.name] = family


def check_arguments(
    caller: str, given: Collection[str], *, known: Collection[str], required: Collection[str] = ()
) -> None:
    """Check the names of arguments of the authors' constructor.

    Args:
        caller: Family, or family and function, for the message.
        given: Names as given.
        known: Names that may be left out.
        required: Names that must be given.

    Raises:
        AuthorsOptionError: A name is unknown or missing; all of them are listed.
    """
    unknown, missing = sorted({*given} - {*known, *required}), sorted({*required} - {*given})
    if unknown or missing:
        names = sorted({*known, *required})
        raise AuthorsOptionError(
            f"{caller}: unknown arguments {unknown}, missing arguments {missing}; known are {names}"
        )
