"""Imports without garbage collection, and without optional packages that are not used.

Importing torch, Ray and MLflow creates a million objects, none of which is garbage. Collecting meanwhile would take a
fifth of the time of the imports.
"""

from __future__ import annotations

import gc
import sys
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


@contextmanager
def without_packages(*names: str) -> Iterator[None]:
    """Have imports of packages fail within the context, where a library imports them if they are installed.

    What the library would need them for stays unavailable in this process.

    Args:
        names: Names of packages; those that are imported already stay.
    """
    absent = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]  # None, with which `import` raises
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]
