"""Masking of secrets in logs, warnings and tracebacks of threads, including those of libraries."""

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
    """Formatter that masks secrets, including those in tracebacks."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record."""
        return without_secrets(super().format(record))


@contextmanager
def masked_output() -> Iterator[None]:
    """Mask secrets in all logs and warnings of this process, and in tracebacks of its threads.

    All handlers are covered, including those of libraries, since records are masked when they are created.
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

    def print_masked(given: threading.ExceptHookArgs) -> None:
        if given.exc_type is not SystemExit and given.exc_value is not None:
            name = given.thread.name if given.thread is not None else "unknown"
            sys.stderr.write(f"Exception in thread {name}:\n{masked_traceback(given.exc_value)}")

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
    """Return the traceback that Python prints for an uncaught error, with secrets masked."""
    return without_secrets("".join(traceback.format_exception(error)))


def _masked_record(record: logging.LogRecord) -> logging.LogRecord:
    """Mask a record; one without secrets is unchanged, since some handlers read its arguments."""
    try:
        text = record.getMessage()
    except Exception:  # the handler reports arguments that do not fit the text, with the place of the call
        return record
    shown = without_secrets(text)
    if shown != text:
        record.msg, record.args = shown, ()
    if record.exc_info and record.exc_info[1] is not None:
        record.exc_text = masked_traceback(record.exc_info[1]).rstrip("\n")
    return record
