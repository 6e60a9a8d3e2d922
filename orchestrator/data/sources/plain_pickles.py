"""Reading of pickles of plain values and arrays, without unpickling.

A pickle is a program. `pickletools` parses its instructions, and the interpreter here executes only those that build
numbers, texts, lists, tuples, dictionaries and arrays of unsigned bytes or integers; it never calls a function that a
pickle names. Both forms of a NumPy array are supported: an empty array that is filled (protocols up to 4), and a
stretch of bytes (protocol 5).
"""

from __future__ import annotations

import io
import math
import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.data.shown_names import one_line, shown_name

__all__ = ["PickleFault", "read_plain_pickle"]

_MOST_BYTES = 2 << 30
_MOST_INSTRUCTIONS = 5_000_000
_MARK = object()

_DTYPES = ("u1", "i4", "i8")
_NUMPY = {
    (package, part): part.rsplit(".", 1)[-1]
    for package in ("numpy.core", "numpy._core")
    for part in ("multiarray._reconstruct", "numeric._frombuffer")
}
_KNOWN: Mapping[str, str] = {
    **{f"{package}.{part}": name for (package, part), name in _NUMPY.items()},
    "numpy.ndarray": "ndarray",
    "numpy.dtype": "dtype",
    "_codecs.encode": "encode",
}
"""Names in a pickle of arrays, under their old and new modules; recognised, never imported."""


class PickleFault(ValueError):  # noqa: N818 - a fault of the file
    """A pickle with other content or instructions; the text is the reason."""


@dataclass(frozen=True)
class _Name:
    """A name of `_KNOWN`."""

    name: str


@dataclass
class _Dtype:
    """A dtype that is built in two steps: its kind, then its byte order."""

    kind: str

    def build(self, state: Any) -> None:
        """Check the state: byte order, and no fields."""
        known = isinstance(state, tuple) and len(state) >= 7 and state[0] == 3
        if not known or state[1] not in ("<", "|", "=") or any(part is not None for part in state[2:5]):
            raise PickleFault(f"it holds an array with a dtype that is not plain {self.kind} in little-endian order")


class _Array:
    """An array that is built in two steps: empty, then its content."""

    def __init__(self) -> None:
        self.content: npt.NDArray[Any] | None = None

    def build(self, state: Any) -> None:
        """Take version, shape, dtype, order and bytes."""
        if not isinstance(state, tuple) or len(state) != 5 or state[0] != 1 or not isinstance(state[3], bool | int):
            raise PickleFault("it holds an array whose state is none")
        self.content = _array(state[4], state[2], state[1], "F" if state[3] else "C")


def read_plain_pickle(path: Path) -> Any:
    """Return the value in a pickle; byte strings of Python 2 become text where they are UTF-8 or short, else bytes.

    Raises:
        PickleFault: It is not a pickle, cut, or holds more than plain values and arrays.
        OSError: It cannot be read.
    """
    if path.stat().st_size > _MOST_BYTES:
        raise PickleFault(f"it has more than {_MOST_BYTES} bytes")
    machine = _Machine()
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(io.BytesIO(path.read_bytes()))):
            if count > _MOST_INSTRUCTIONS:
                raise PickleFault(f"it has more than {_MOST_INSTRUCTIONS} instructions")
            machine.run(opcode.name, argument)
        return _finished(machine.stack[-1])
    except PickleFault:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError, MemoryError) as error:
        raise PickleFault(f"it is cut or damaged: {one_line(error)}") from None


class _Machine:
    """Interpreter with the stack and the memo of a pickle."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self._handlers: dict[str, Callable[[Any], object]] = self._instructions()

    def run(self, name: str, argument: Any) -> None:
        """Execute one instruction."""
        instruction = self._handlers.get(name)
        if instruction is None:
            raise PickleFault(f"it uses the instruction {name}")
        instruction(argument)

    def _instructions(self) -> dict[str, Callable[[Any], object]]:
        push, pop = self.stack.append, self.stack.pop
        constants = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
        values = "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT UNICODE SHORT_BINUNICODE BINUNICODE"
        values += " BINUNICODE8 SHORT_BINBYTES BINBYTES BINBYTES8"
        return {
            **{name: lambda _, value=value: push(value) for name, value in constants.items()},  # type: ignore[misc]
            **dict.fromkeys(values.split(), push),
            **{name: lambda text: push(_old_text(text)) for name in ("STRING", "BINSTRING", "SHORT_BINSTRING")},
            **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda _: None),
            "BYTEARRAY8": lambda content: push(bytes(content)),
            "MARK": lambda _: push(_MARK),
            "POP": lambda _: pop(),
            "POP_MARK": lambda _: self._to_mark(),
            "DUP": lambda _: push(self.stack[-1]),
            "EMPTY_LIST": lambda _: push([]),
            "EMPTY_TUPLE": lambda _: push(()),
            "EMPTY_DICT": lambda _: push({}),
            "LIST": lambda _: push(self._to_mark()),
            "TUPLE": lambda _: push(tuple(self._to_mark())),
            "DICT": lambda _: push(_pairs(self._to_mark())),
            "TUPLE1": lambda _: push((pop(),)),
            "TUPLE2": lambda _: push((pop(), pop())[::-1]),
            "TUPLE3": lambda _: push((pop(), pop(), pop())[::-1]),
            "APPEND": lambda _: self._append([pop()]),
            "APPENDS": lambda _: self._append(self._to_mark()),
            "SETITEM": lambda _: self._set_items([pop(), pop()][::-1]),
            "SETITEMS": lambda _: self._set_items(self._to_mark()),
            **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), self._put),
            "MEMOIZE": lambda _: self._put(len(self.memo)),
            **{name: lambda place: push(self.memo[place]) for name in ("GET", "BINGET", "LONG_BINGET")},
            "GLOBAL": lambda address: push(_recognised(*address.split(" ", 1))),
            "STACK_GLOBAL": lambda _: push(_recognised(*(pop(), pop())[::-1])),
            "REDUCE": lambda _: push(_called(*(pop(), pop())[::-1])),
            "BUILD": lambda _: self._build(pop()),
        }

    def _put(self, place: int) -> None:
        self.memo[place] = self.stack[-1]

    def _to_mark(self) -> list[Any]:
        place = len(self.stack) - 1
        while place >= 0 and self.stack[place] is not _MARK:
            place -= 1
        if place < 0:
            raise PickleFault("it is cut or damaged: a mark is missing")
        found = self.stack[place + 1 :]
        del self.stack[place:]
        return found

    def _append(self, values: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise PickleFault("it appends to something that is no list")
        self.stack[-1].extend(values)

    def _set_items(self, values: list[Any]) -> None:
        if not isinstance(self.stack[-1], dict):
            raise PickleFault("it sets items of something that is no dictionary")
        self.stack[-1].update(_pairs(values))

    def _build(self, state: Any) -> None:
        target = self.stack[-1]
        if not isinstance(target, _Array | _Dtype):
            raise PickleFault("it sets the state of something that is no array")
        target.build(state)


def _pairs(values: list[Any]) -> dict[Any, Any]:
    """Build a dictionary from alternating keys and values; keys are texts or numbers."""
    keys = values[::2]
    if len(values) % 2 or not all(isinstance(key, str | bytes | int) for key in keys):
        raise PickleFault("it has a dictionary whose keys are no texts")
    return dict(zip(keys, map(_finished, values[1::2]), strict=True))


def _finished(value: Any) -> Any:
    """Replace the parts of an array by the array."""
    if not isinstance(value, _Array):
        return value
    if value.content is None:
        raise PickleFault("it holds an array without content")
    return value.content


def _old_text(text: str) -> str | bytes:
    """Convert a byte string of Python 2, text or the bytes of an array, which `pickletools` decodes as Latin-1."""
    return text if len(text) < 256 else text.encode("latin1")


def _recognised(module: Any, name: Any = "") -> _Name:
    if not isinstance(module, str) or not isinstance(name, str):
        raise PickleFault("it calls something without a name")
    if f"{module}.{name}" not in _KNOWN:
        raise PickleFault(f"it calls {shown_name(f'{module}.{name}')}")
    return _Name(_KNOWN[f"{module}.{name}"])


def _called(function: Any, arguments: Any) -> Any:
    """Return the result of a call in a pickle of NumPy, without calling the function."""
    if not isinstance(function, _Name) or not isinstance(arguments, tuple):
        raise PickleFault("it calls something that is no part of an array")
    match function.name, arguments:
        case "dtype", (str(kind), *flags) if kind in _DTYPES and len(flags) <= 2:
            return _Dtype(kind)
        case "dtype", (str(kind), *_):
            raise PickleFault(f"it holds an array of dtype {kind!a:.40}; only {', '.join(_DTYPES)} are read")
        case "_reconstruct", (_Name("ndarray"), (0,), "b" | b"b"):
            return _Array()
        case "_frombuffer", (bytes(content), _Dtype() as dtype, tuple(shape), str(order)):
            return _array(content, dtype, shape, order)
        case "encode", (str(text), "latin1" | "latin-1"):
            return text.encode("latin1")
    raise PickleFault(f"it calls {function.name} with other arguments than an array is written with")


def _array(content: Any, dtype: Any, shape: Any, order: str) -> npt.NDArray[Any]:
    """Return an array; the number of bytes must match its shape and dtype."""
    if isinstance(content, str):
        content = content.encode("latin1")
    whole = (
        isinstance(shape, tuple)
        and all(type(side) is int and 0 <= side <= _MOST_BYTES for side in shape)
        and len(shape) <= 4
    )
    if not isinstance(dtype, _Dtype) or not isinstance(content, bytes) or not whole or order not in ("C", "F"):
        raise PickleFault("it holds an array whose shape, dtype or content is none")
    announced = math.prod(shape) * int(dtype.kind[1:])
    if announced != len(content):
        raise PickleFault(f"it holds an array of {announced} bytes by its shape {shape}, and {len(content)} are there")
    return np.frombuffer(content, f"<{dtype.kind}").reshape(shape, order="F" if order == "F" else "C")
