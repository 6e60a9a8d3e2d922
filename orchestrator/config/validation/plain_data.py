"""Check that settings are plain data of a bounded size, before the rules of any section."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from os import PathLike
from typing import Any

from pydantic import BaseModel

from orchestrator.errors import Problem

MOST_VALUES = 10_000
MOST_DEPTH = 40
_MOST_CHARACTERS = 4_096
_MOST_FAULTS = 20
_LARGEST = 2**63 - 1
_NO_TEXT = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_SHOWN = 120


def plain_data_problems(raw: Mapping[Any, Any]) -> list[Problem]:
    """Return the values that are not plain data, or the problem of settings that are too large.

    Args:
        raw: Settings as read from a file or passed in Python.
    """
    problems: list[Problem] = []
    try:
        for problem in _problems(raw):
            problems.append(problem)
            if len(problems) == _MOST_FAULTS:
                break
    except _TooMuchError as error:
        return [Problem("", str(error))]
    return problems


def shown(value: object) -> str:
    """Return the `repr` of a value, shortened to a line, for use in messages."""
    return shortened(str(value) if isinstance(value, BaseModel) else repr(value))


def shortened(text: str) -> str:
    """Return a text, cut if it is longer than a line."""
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


class _TooMuchError(ValueError):
    """Settings that are too large or nested too deeply."""


def _problems(raw: Mapping[Any, Any]) -> Iterator[Problem]:
    left: list[tuple[str, Any, int]] = [("", raw, 0)]
    count = 0
    while left:
        where, value, depth = left.pop()
        count += 1
        if count + len(left) > MOST_VALUES:
            raise _TooMuchError(f"the settings hold more than {MOST_VALUES:,} keys and values")
        if depth > MOST_DEPTH:
            raise _TooMuchError(f"the settings are nested more than {MOST_DEPTH} deep")
        if isinstance(value, BaseModel):
            value = dict(value)
        if isinstance(value, Mapping):
            yield from _key_problems(where, value)
            count += len(value)
            left += [(_joined(where, key), inner, depth + 1) for key, inner in value.items() if isinstance(key, str)]
        elif isinstance(value, list | tuple):
            if count + len(value) > MOST_VALUES:
                raise _TooMuchError(f"the settings hold more than {MOST_VALUES:,} keys and values")
            left += [(_joined(where, str(index)), inner, depth + 1) for index, inner in enumerate(value)]
        elif (message := _value_fault(value)) is not None:
            yield Problem(where, message)


def _key_problems(where: str, group: Mapping[Any, Any]) -> Iterator[Problem]:
    for key in group:
        if not isinstance(key, str):
            given = shown(key) if _is_printable(key) else type(key).__name__
            yield Problem(_joined(where, given), f"got {given}; a name is text. Write it in quotes")
        elif (fault := _text_fault(key)) is not None:
            yield Problem(_joined(where, shown(key)), f"as a name {fault}")


def _value_fault(value: Any) -> str | None:
    if value is None or isinstance(value, bool | float | PathLike):
        return None  # sections refuse numbers that are not finite
    if isinstance(value, str):
        return _text_fault(value)
    if isinstance(value, int):
        return None if abs(value) <= _LARGEST else "holds a whole number beyond 64 bits. Use a smaller one"
    kind = type(value).__name__
    return f"is a {kind}; a setting is a number, a text, true, false, a list or a group. Write it in quotes"


def _text_fault(text: str) -> str | None:
    if len(text) > _MOST_CHARACTERS:
        return f"has {len(text):,} characters; a text has at most {_MOST_CHARACTERS:,}"
    found = _NO_TEXT.search(text)
    if found is None:
        return None
    return f"got {shown(text)}; a text is a single line without control characters, and U+{ord(found[0]):04X} is one"


def _is_printable(key: object) -> bool:
    return isinstance(key, bool | float | None) or (isinstance(key, int) and abs(key) <= _LARGEST)


def _joined(where: str, key: str) -> str:
    return f"{where}.{shortened(key)}" if where else shortened(key)
