"""Damage of files: accidental, as by cables and disks, and deliberate, field by field."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["damaged"]

_EXTREMES = (b"\x00", b"\xff", b"\x7f", b"\x80", b"\x01")
_EVIL: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 1 << 31, 1 << 63, 1 << 70, 0.5, 1e308, float("nan"), float("inf"), "", "0"),
    *(
        "../../up",
        "/etc/passwd",
        "a\nb",
        "a\x00b",
        "[red]",
        "[/]",
        "x" * 5000,
        "\u202e",
        "0" * 16,
        [],
        {},
        [[]],
        [None],
    ),
)


def damaged(content: bytes, generator: np.random.Generator, structured: bool) -> bytes:
    """Return a file with one to four faults.

    Args:
        content: Content of the whole file.
        generator: Generator of random numbers.
        structured: Whether the file is JSON; more than half of its cases remain valid JSON.
    """
    if structured and generator.random() < 0.6:
        return _other_json(content, generator)
    for _ in range(int(generator.integers(1, 5))):
        fault = _FAULTS[int(generator.integers(len(_FAULTS)))]
        content = fault(content, generator)
    return content


def _place(content: bytes, generator: np.random.Generator) -> int:
    """Draw an offset; half of them are near the start or the end, where headers and directories are."""
    if not content:
        return 0
    where = generator.random()
    if where < 0.3:
        return int(generator.integers(min(len(content), 600)))
    if where < 0.5:
        return len(content) - 1 - int(generator.integers(min(len(content), 600)))
    return int(generator.integers(len(content)))


def _flip(content: bytes, generator: np.random.Generator) -> bytes:
    if not content:
        return content
    changed = bytearray(content)
    changed[_place(content, generator)] ^= 1 << int(generator.integers(8))
    return bytes(changed)


def _cut(content: bytes, generator: np.random.Generator) -> bytes:
    return content[: _place(content, generator)]


def _overwrite(content: bytes, generator: np.random.Generator) -> bytes:
    place, length = _place(content, generator), int(generator.choice([1, 2, 4, 8, 12, 64]))
    kind = int(generator.integers(len(_EXTREMES) + 1))
    new = generator.bytes(length) if kind == len(_EXTREMES) else _EXTREMES[kind] * length
    return content[:place] + new + content[place + length :]


def _drop(content: bytes, generator: np.random.Generator) -> bytes:
    place = _place(content, generator)
    return content[:place] + content[place + int(generator.integers(1, 600)) :]


def _repeat(content: bytes, generator: np.random.Generator) -> bytes:
    place, length = _place(content, generator), int(generator.integers(1, 1200))
    return content[: place + length] + content[place:]


def _move(content: bytes, generator: np.random.Generator) -> bytes:
    source, target = _place(content, generator), _place(content, generator)
    length = int(generator.choice([4, 8, 16, 512]))
    return content[:target] + content[source : source + length] + content[target + length :]


_FAULTS: tuple[Callable[[bytes, np.random.Generator], bytes], ...] = (_flip, _cut, _overwrite, _drop, _repeat, _move)


def _other_json(content: bytes, generator: np.random.Generator) -> bytes:
    """Replace a value or remove a key."""
    tree = json.loads(content)
    here, depth = tree, int(generator.integers(1, 6))
    for _ in range(depth):
        keys = list(here) if isinstance(here, dict) else list(range(len(here)))
        if not keys:
            break
        key = keys[int(generator.integers(len(keys)))]
        if not isinstance(here[key], dict | list) or depth == 1 or generator.random() < 0.2:
            break
        here = here[key]
    keys = list(here) if isinstance(here, dict) else list(range(len(here)))
    if keys:
        key = keys[int(generator.integers(len(keys)))]
        if isinstance(here, dict) and generator.random() < 0.2:
            del here[key]
        else:
            here[key] = _EVIL[int(generator.integers(len(_EVIL)))]
    return json.dumps(tree).encode()
