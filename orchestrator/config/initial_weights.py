"""Weights that trainings of a sweep start from, as its plans describe them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["InitialWeights"]


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
