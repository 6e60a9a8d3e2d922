"""Imports without garbage collection.

Importing torch, Ray and MLflow creates a million objects, none of which is garbage. Collecting meanwhile would take a
fifth of the time of the imports.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


def begin_imports() -> None:
    """Disable garbage collection until `end_imports`."""
    gc.disable()


def end_imports() -> None:
    """Enable garbage collection again."""
    gc.enable()


@contextmanager
def quick_imports() -> Iterator[None]:
    """Disable garbage collection within the context, and exclude what is alive at its end from later ones."""
    begin_imports()
    try:
        yield
    finally:
        gc.freeze()  # what was imported stays; a command would look through it several times, for half a second
        end_imports()
