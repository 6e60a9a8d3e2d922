"""Delivery of notifications to real HTTP servers that fail, hang, die or redirect."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from orchestrator.notify.webhook import Webhook

SECONDS = 60.0  # for what comes at once


class Receiver(ThreadingHTTPServer):
    """Server that answers with given codes, the last one repeated, and keeps what it was sent."""

    daemon_threads = True

    def __init__(self, codes: list[int], *, location: str = "") -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.codes, self.location = codes, location
        self.answers = threading.Event()
        self.answers.set()
        self.bodies: list[Any] = []
        self.paths: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/hooks/T0KEN-of-the-user"


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.paths.append(self.path)
        self.server.answers.wait(SECONDS)
        code = self.server.codes.pop(0) if len(self.server.codes) > 1 else self.server.codes[0]
        self.send_response(code)
        if self.server.location:
            self.send_header("Location", self.server.location)
        self.server.bodies.append(json.loads(body))  # before the answer, after which the next request may begin
        self.end_headers()

    do_GET = do_POST

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


@contextmanager
def receiver(*codes: int, **options: Any) -> Iterator[Receiver]:
    with Receiver(list(codes), **options) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


def webhook_to(url: str) -> Webhook:
    """Return a webhook with short pauses, which waits for a server that hangs."""
    return Webhook(url, first_pause_s=0.02, timeout_s=(SECONDS, SECONDS))


def close(webhook: Webhook, wait_s: float = SECONDS) -> str:
    return webhook.close(time.monotonic() + wait_s)


def test_a_server_that_fails_twice_gets_every_message_once_and_in_order() -> None:
    with receiver(503, 429, 200) as server:
        webhook = webhook_to(server.url)
        for number in range(3):
            webhook.post({"number": number})
        assert close(webhook) == ""
    assert [body["number"] for body in server.bodies] == [0, 0, 0, 1, 2]


def test_a_server_that_refuses_is_not_asked_again() -> None:
    with receiver(404) as server:
        webhook = webhook_to(server.url)
        webhook.post({})
        lost = close(webhook)
    assert len(server.bodies) == 1
    assert lost == f"1 notification could not be delivered to {server.url.rpartition('/hooks')[0]}/***: it answered 404"


def test_redirects_are_not_followed() -> None:
    with receiver(200) as other, receiver(307, location=other.url) as server:
        webhook = webhook_to(server.url)
        webhook.post({})
        lost = close(webhook)
    assert "it answered 307; redirects are not followed" in lost
    assert other.paths == []


def test_a_server_that_hangs_holds_nobody_up() -> None:
    with receiver(200) as server:
        server.answers.clear()
        webhook = webhook_to(server.url)
        for number in range(150):  # more than the queue holds
            webhook.post({"number": number})
        lost = close(webhook, 0.2)
        assert server.bodies == []  # it hangs still
        server.answers.set()
    assert lost.startswith("150 notifications could not be delivered to http://127.0.0.1:")
    assert "T0KEN" not in lost


def test_a_server_that_dies_is_waited_for_a_while() -> None:
    with receiver(200) as server:
        webhook = webhook_to(server.url)
        webhook.post({"number": 0})
        while not server.bodies:
            time.sleep(0.01)
    webhook.post({"number": 1})
    lost = close(webhook)
    assert lost.startswith("1 notification could not be delivered") and "it cannot be reached" in lost


def test_a_server_that_drips_its_answer_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        webhook = webhook_to(f"http://127.0.0.1:{listener.getsockname()[1]}/x")
        webhook.post({})
        lost = close(webhook, 0.2)  # the connection is accepted by the system, and never answered
    assert lost.startswith("1 notification could not be delivered")


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/nobody", "http://no-such-host.invalid/x"])
def test_an_address_without_a_server_is_one_line(url: str) -> None:
    webhook = webhook_to(url)
    webhook.post({})
    assert close(webhook, 2.0).count("\n") == 0
