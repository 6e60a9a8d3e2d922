"""Output of a sweep that does not end the sweep when it can no longer be shown.

The reader of a pipe may quit (`| head`), a terminal may close, and the disk of a log may be full; hours of training
must not depend on any of them.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

_GONE = {errno.EPIPE, errno.EIO, errno.EBADF}
_FULL = {errno.ENOSPC, errno.EDQUOT}


@contextmanager
def lasting_output() -> Iterator[None]:
    """Drop what standard output and standard error can no longer take, in place of raising an error.

    Where only the reader of standard output has gone, standard error says once that the work continues.
    """
    before = sys.stdout, sys.stderr
    stderr = _LastingStream(before[1], lambda: None)

    def say_once() -> None:
        stderr.write("spatialsweep: nobody reads this output any more; the sweep continues. See spatialsweep status\n")
        stderr.flush()

    sys.stdout, sys.stderr = cast(TextIO, _LastingStream(before[0], say_once)), cast(TextIO, stderr)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


class _LastingStream:
    """Text stream that outlives its reader; all but writing is left to the stream that it stands for.

    Args:
        stream: Stream that may fail.
        on_loss: Called once, when the reader has gone.
    """

    def __init__(self, stream: TextIO, on_loss: Callable[[], None]) -> None:
        self._stream = stream
        self._on_loss = on_loss
        self._lost = False

    def write(self, text: str) -> int:
        """Write a text, or drop it."""
        self._attempt(lambda: self._stream.write(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write texts, or drop them."""
        self.write("".join(lines))

    def flush(self) -> None:
        """Pass on what is written so far, or drop it."""
        self._attempt(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _attempt(self, write: Callable[[], object]) -> None:
        if self._lost:
            return
        try:
            write()
        except OSError as error:
            if error.errno in _FULL:
                return  # there may be room again for a later text
            if error.errno not in _GONE:
                raise
            self._lost = True
            self._discard()
            self._on_loss()

    def _discard(self) -> None:
        """Let the stream end in nothing, so that what it still holds can be flushed when the process ends."""
        nothing = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nothing, self._stream.fileno())
        finally:
            os.close(nothing)
