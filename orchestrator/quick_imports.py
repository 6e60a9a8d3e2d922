"""Imports without garbage collection.

Torch, Ray and MLflow bring a million objects when they are imported, none of which is garbage. Python would look
through them again and again meanwhile, for a fifth of the time that the imports take.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


def begin_imports() -> None:
    """No garbage is collected until `end_imports`."""
    gc.disable()


def end_imports() -> None:
    """Garbage is collected again."""
    gc.enable()


@contextmanager
def quick_imports() -> Iterator[None]:
    """Both, around what imports much."""
    begin_imports()
    try:
        yield
    finally:
        end_imports()
