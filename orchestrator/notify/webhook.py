"""Delivery of messages to one webhook, in a thread of its own with a bounded queue, so that training never waits."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Mapping
from typing import Any

import tenacity

from orchestrator.errors import first_line
from orchestrator.uris import shown_origin, without_secrets

logger = logging.getLogger(__name__)

_MOST_WAITING = 100
_ATTEMPTS = 6
_TIMEOUT_S = (5.0, 10.0)  # to connect, and for the beginning of the answer
_LONGEST_PAUSE_S = 30.0
_TRANSIENT = (408, 425, 429)


class _TransientError(Exception):
    """Failure of a delivery that may succeed later."""


class _RefusedError(Exception):
    """Failure of a delivery that would repeat."""


class Webhook:
    """Webhook with its queue; `post` may be called from any thread and never blocks.

    A delivery is repeated with growing pauses while the server is away or answers 5xx or 429. Redirects are not
    followed, since the message would go to another server than the user named.

    Args:
        url: Address, which may hold a token.
        first_pause_s: Pause in seconds before the second attempt; later ones are longer.
        timeout_s: Longest wait in seconds to connect, and for the beginning of the answer.
    """

    def __init__(self, url: str, *, first_pause_s: float = 1.0, timeout_s: tuple[float, float] = _TIMEOUT_S) -> None:
        self._url = url
        self._first_pause_s = first_pause_s
        self._timeout_s = timeout_s
        self._waiting: queue.Queue[Mapping[str, Any] | None] = queue.Queue(_MOST_WAITING)
        self._given_up = threading.Event()
        self._lock = threading.Lock()
        self._undelivered = 0
        self._dropped = 0
        self._fault = ""
        self._thread = threading.Thread(target=self._deliver_all, name="webhook", daemon=True)
        self._thread.start()

    def post(self, message: Mapping[str, Any]) -> None:
        """Queue a message; where too many wait, it is dropped and counted.

        Args:
            message: Content, which is sent as JSON.
        """
        with self._lock:
            try:
                self._waiting.put_nowait(message)
                self._undelivered += 1
            except queue.Full:
                self._dropped += 1

    def close(self, deadline_s: float) -> str:
        """Deliver what waits until a time, and return what could not be delivered, in one line; empty for nothing.

        Args:
            deadline_s: Time by `time.monotonic` after which no more is delivered.
        """
        with contextlib.suppress(queue.Full):  # then the messages that wait are counted below
            self._waiting.put(None, timeout=max(0.0, deadline_s - time.monotonic()))
        self._thread.join(max(0.0, deadline_s - time.monotonic()))
        self._given_up.set()
        with self._lock:
            lost = self._undelivered + self._dropped
            fault = self._fault or "it was too slow"
        count = "1 notification" if lost == 1 else f"{lost} notifications"
        return without_secrets(f"{count} could not be delivered to {shown_origin(self._url)}: {fault}") if lost else ""

    def _deliver_all(self) -> None:
        while (message := self._waiting.get()) is not None and not self._given_up.is_set():
            fault = self._deliver(message)
            with self._lock:
                if fault:
                    self._dropped += 1
                    self._fault = fault
                self._undelivered -= 1

    def _deliver(self, message: Mapping[str, Any]) -> str:
        """Deliver a message and return why it could not be; empty where it was."""
        attempts = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_TransientError),
            stop=tenacity.stop_any(
                tenacity.stop_after_attempt(_ATTEMPTS), tenacity.stop_when_event_set(self._given_up)
            ),
            wait=tenacity.wait_exponential(multiplier=self._first_pause_s, max=_LONGEST_PAUSE_S)
            + tenacity.wait_random(0.0, self._first_pause_s),
            sleep=tenacity.sleep_using_event(self._given_up),
            before_sleep=self._note_failure,
            reraise=True,
        )
        try:
            attempts(self._post_once, message)
        except (_TransientError, _RefusedError) as error:
            return str(error)
        except Exception as error:  # a fault of the library must not end the thread
            logger.debug("A notification failed", exc_info=True)
            return first_line(error)
        return ""

    def _post_once(self, message: Mapping[str, Any]) -> None:
        import requests

        try:
            # the body is not read: a server that sends it byte by byte would hold the thread
            with requests.post(
                self._url, json=message, timeout=self._timeout_s, allow_redirects=False, stream=True
            ) as answer:
                status = answer.status_code
        except (requests.ConnectionError, requests.Timeout) as error:
            kind = "it did not answer in time" if isinstance(error, requests.Timeout) else "it cannot be reached"
            raise _TransientError(kind) from None
        except (requests.RequestException, ValueError) as error:
            raise _RefusedError(first_line(error)) from None
        if status >= 500 or status in _TRANSIENT:
            raise _TransientError(f"it answered {status}")
        if 300 <= status < 400:
            raise _RefusedError(f"it answered {status}; redirects are not followed. Name the address it redirects to")
        if status >= 400:
            raise _RefusedError(f"it answered {status}")

    def _note_failure(self, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        with self._lock:
            self._fault = str(error)
