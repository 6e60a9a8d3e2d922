"""Keeps passwords out of what others print through Python: logging, warnings, tracebacks of threads."""

from __future__ import annotations

import logging
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from orchestrator.uris import without_secrets


class MaskedFormatter(logging.Formatter):
    """Formats records without secrets, tracebacks included."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, or lines, of a record."""
        return without_secrets(super().format(record))


@contextmanager
def masked_output() -> Iterator[None]:
    """Masks secrets in all that this process logs, warns of, or prints of an error in a thread.

    It covers whatever handlers there are, those of libraries too, for it acts where records are made.
    """
    make_record, format_warning, excepthook = (
        logging.getLogRecordFactory(),
        warnings.formatwarning,
        threading.excepthook,
    )

    ended = False

    def make_masked(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make_record(*args, **kwargs)
        return record if ended else _masked_record(record)

    def format_masked(*args: Any, **kwargs: Any) -> str:
        return without_secrets(format_warning(*args, **kwargs))

    def print_masked(told: threading.ExceptHookArgs) -> None:
        if told.exc_type is not SystemExit and told.exc_value is not None:
            name = told.thread.name if told.thread is not None else "unknown"
            sys.stderr.write(f"Exception in thread {name}:\n{masked_traceback(told.exc_value)}")

    logging.setLogRecordFactory(make_masked)
    warnings.formatwarning = format_masked
    threading.excepthook = print_masked
    try:
        yield
    finally:
        ended = True
        if logging.getLogRecordFactory() is make_masked:  # Ray puts one of its own around it
            logging.setLogRecordFactory(make_record)
        warnings.formatwarning = format_warning
        threading.excepthook = excepthook


def masked_traceback(error: BaseException) -> str:
    """Return what Python prints of an error that nobody catches, without secrets."""
    return without_secrets("".join(traceback.format_exception(error)))


def _masked_record(record: logging.LogRecord) -> logging.LogRecord:
    """Changes only what holds a secret: some handlers read the arguments of a record."""
    try:
        text = record.getMessage()
    except Exception:  # arguments that do not fit their text are reported by the handler, with the place of the call
        return record
    shown = without_secrets(text)
    if shown != text:
        record.msg, record.args = shown, ()
    if record.exc_info and record.exc_info[1] is not None:
        record.exc_text = masked_traceback(record.exc_info[1]).rstrip("\n")
    return record
