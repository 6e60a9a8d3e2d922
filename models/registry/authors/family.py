"""How the authors of a paper name the parts of their network, in terms of ours.

A family is described once, as a table from their state-dict keys to slices of ours. Loading a checkpoint,
checking it and reading a gradient back under its original name all follow from the table.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

__all__ = ["AuthorsFamily", "AuthorsOptionError", "Entry"]


class AuthorsOptionError(ValueError):
    """Arguments that the authors' constructor does not take, or that make no network."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """Where one entry of the authors' state dict lives in ours.

    Args:
        ours: Our key.
        rows: First and last + 1 row of our tensor, where several of theirs are stacked in it; None is all.
        shape: Their shape, where it differs from ours in more than the number of rows.
    """

    ours: str
    rows: tuple[int, int] | None = None
    shape: tuple[int, ...] | None = None

    def slice(self, tensor: Tensor) -> Tensor:
        """The part of our tensor that is this entry, in our shape; a view."""
        return tensor if self.rows is None else tensor[self.rows[0] : self.rows[1]]

    def to_authors(self, tensor: Tensor) -> Tensor:
        """The part of our tensor (or of its gradient) that is this entry, in their shape."""
        part = self.slice(tensor)
        return part if self.shape is None else part.reshape(self.shape)

    def authors_shape(self, tensor: Tensor) -> tuple[int, ...]:
        """The shape they give it."""
        return self.shape or tuple(self.slice(tensor).shape)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AuthorsFamily:
    """One paper's code.

    Args:
        name: The family, as in `from_authors`.
        networks: Our classes that belong to it.
        build: Makes our network from the arguments of their constructor.
        entries: Their keys and where each lives in a given network of ours.
        takes_no_part: Whether a key of theirs is known to have no effect on the result of that network.
    """

    name: str
    networks: tuple[type[nn.Module], ...]
    build: Callable[[Mapping[str, Any]], nn.Module]
    entries: Callable[[nn.Module], dict[str, Entry]]
    takes_no_part: Callable[[str, nn.Module], bool]
