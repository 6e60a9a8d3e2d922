"""Images of several shards, indexed as one array without a copy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["StackedImages"]

Pixels = npt.NDArray[np.uint8]


class StackedImages:
    """Images of a split, mapped shard by shard.

    Args:
        parts: Images of each shard, uint8, (N_i, C, H, W) with equal C, H, W; at least one.
    """

    def __init__(self, parts: Sequence[Pixels]) -> None:
        self._parts = tuple(parts)
        self._ends = np.cumsum([len(part) for part in self._parts])
        self.shape: tuple[int, ...] = (int(self._ends[-1]), *self._parts[0].shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: npt.NDArray[np.int64] | slice) -> Pixels:
        """Copy the chosen images, (len(index), C, H, W)."""
        places = np.arange(len(self))[index]
        if len(places) and not -1 < places.min() <= places.max() < len(self):
            raise IndexError(f"positions {places.min()}..{places.max()} of {len(self)} images")
        owners = np.searchsorted(self._ends, places, side="right")
        result = np.empty((len(places), *self.shape[1:]), np.uint8)
        for owner in np.unique(owners):
            mine = owners == owner
            start = self._ends[owner] - len(self._parts[owner])
            result[mine] = self._parts[owner][places[mine] - start]
        return result

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Pixels:
        """Copy all images into one new array."""
        if copy is False:
            raise ValueError("several shards become one array only by copying")
        whole: Pixels = np.concatenate(self._parts)
        return whole if dtype is None else whole.astype(dtype, copy=False)
