"""Weights that trainings of a sweep start from, as its plans describe them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["NAME_PATTERN", "InitialWeights"]

NAME_PATTERN = r"[0-9a-f]{64}-(ema|plain)\.pt"
"""Names of stored files; records may come from elsewhere, and a name is joined to the folder of the sweep."""


@dataclass(frozen=True)
class InitialWeights:
    """Weights of one checkpoint, read and stored once for all trials of a sweep.

    Args:
        sha256: Hash of the bytes of the checkpoint, 64 hexadecimal digits.
        kind: `ema` or `plain`, the weights that were read.
        shapes: Shapes of its tensors by name.
    """

    sha256: str
    kind: str
    shapes: Mapping[str, tuple[int, ...]] = field(repr=False, compare=False)

    @property
    def name(self) -> str:
        """Name of the stored file."""
        return f"{self.sha256}-{self.kind}.pt"
