"""JSON files of hundreds of megabytes, read entry by entry: an object whose values are long arrays.

`json.load` of COCO's training annotations builds gigabytes of Python objects at once; here one entry and one chunk of
the text are in memory. Untrusted: a damaged file, one nested too deeply, or an entry without an end is a `DataError`.
"""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from orchestrator.data.shown_names import one_line, shown_name
from orchestrator.errors import DataError

__all__ = ["JsonArrays"]

_CHUNK_BYTES = 4 << 20
_MOST_ENTRY_CHARACTERS = 64 << 20
_SPACE = " \t\n\r"
_AFTER_NUMBER = tuple(_SPACE + ",]}")
_FAULTS = (ValueError, RecursionError, OSError)


class JsonArrays:
    """A JSON file that holds an object of arrays.

    Args:
        path: Path of the file.
        where: Name of the file in errors.
    """

    def __init__(self, path: Path, where: str) -> None:
        self.path, self.where = path, where

    def entries(self) -> Iterator[tuple[str, int, Any]]:
        """Yield key, position and value of each entry of every array at the top level; other values are skipped.

        Raises:
            DataError: The file is damaged, not an object, or has a key twice.
        """
        try:
            with self.path.open("rb") as file:
                yield from _entries(_Text(file))
        except _FAULTS as error:
            raise DataError(f"{self.where}: cannot be read as annotations ({one_line(error)})") from None

    def content_hash(self) -> str:
        """Return a hash of the bytes of the file."""
        try:
            with self.path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise DataError(f"{self.where}: cannot be read ({error.strerror})") from None


class _Text:
    """Text of a file from the current position; more of it is read on demand."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._text, self._at, self._ended = file, "", 0, False
        self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self._json = json.JSONDecoder()

    def next_sign(self) -> str:
        """Return the next character that is no white space, without moving past it; empty at the end."""
        while True:
            while self._at < len(self._text):
                if self._text[self._at] not in _SPACE:
                    return self._text[self._at]
                self._at += 1
            if self._ended:
                return ""
            self._more()

    def take(self, signs: str) -> str:
        """Move past the next character, which must be one of `signs`, and return it."""
        found = self.next_sign()
        if not found or found not in signs:
            raise ValueError(f"{shown_name(found) or 'the end'} where {' or '.join(signs)} is expected")
        self._at += 1
        return found

    def value(self) -> Any:
        """Return the next value, and move past it."""
        self.next_sign()
        while True:
            try:
                value, end = self._json.raw_decode(self._text, self._at)
            except json.JSONDecodeError:  # damaged, or continued in the next chunk
                if self._ended:
                    raise
            else:
                cut = isinstance(value, int | float) and self._text[end : end + 1] not in _AFTER_NUMBER
                if (end < len(self._text) and not cut) or self._ended:
                    self._at = end
                    return value
            if len(self._text) - self._at > _MOST_ENTRY_CHARACTERS:
                raise ValueError(f"damaged, or an entry of more than {_MOST_ENTRY_CHARACTERS} characters")
            self._more()

    def _more(self) -> None:
        chunk = self._file.read(_CHUNK_BYTES)
        self._text = self._text[self._at :] + self._decode(chunk, final=not chunk)
        self._at, self._ended = 0, not chunk


def _entries(text: _Text) -> Iterator[tuple[str, int, Any]]:
    text.take("{")
    keys: set[str] = set()
    if text.next_sign() == "}":
        text.take("}")
    else:
        while True:
            key = text.value()
            if not isinstance(key, str):
                raise ValueError("a key that is no text")
            if key in keys:
                raise ValueError(f"the key {shown_name(key)} comes twice")
            keys.add(key)
            text.take(":")
            if text.next_sign() == "[":
                yield from _array(key, text)
            else:
                text.value()
            if text.take(",}") == "}":
                break
    if text.next_sign():
        raise ValueError("text after the end")


def _array(key: str, text: _Text) -> Iterator[tuple[str, int, Any]]:
    text.take("[")
    if text.next_sign() == "]":
        text.take("]")
        return
    position = 0
    while True:
        yield key, position, text.value()
        position += 1
        if text.take(",]") == "]":
            return
