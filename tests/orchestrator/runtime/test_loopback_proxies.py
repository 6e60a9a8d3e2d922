"""Exemption of the machine's own addresses from proxies."""

from __future__ import annotations

import http.server
import threading
import urllib.request
from collections.abc import Iterator

import pytest
import requests

from orchestrator.runtime.loopback_proxies import keep_loopback_direct

DEAD = "http://127.0.0.1:9"
NAMES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy", "no_proxy")


@pytest.fixture
def server() -> Iterator[int]:
    """Start a web server on loopback that answers every request, and return its port."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as there:
        threading.Thread(target=there.serve_forever, args=(0.02,), daemon=True).start()
        yield there.server_port
        there.shutdown()


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy"])
def test_a_server_on_this_machine_is_reached_in_spite_of_a_dead_proxy(
    server: int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    for each in (*NAMES, *map(str.upper, NAMES)):
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setenv(name, DEAD)
    with pytest.raises(requests.ConnectionError):
        requests.get(f"http://127.0.0.1:{server}", timeout=60)
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("NO_PROXY", "")
    keep_loopback_direct(os.environ)
    for host in ("127.0.0.1", "localhost"):
        assert requests.get(f"http://{host}:{server}", timeout=60).status_code == 204
        opener = urllib.request.build_opener()  # `urlopen` would keep these proxies for the whole process
        with opener.open(f"http://{host}:{server}", timeout=60) as answer:
            assert answer.status == 204


def test_exemptions_of_the_user_stay() -> None:
    environ = {"https_proxy": DEAD, "NO_PROXY": "intern.example, localhost"}
    keep_loopback_direct(environ)
    assert environ["no_proxy"] == environ["NO_PROXY"] == "intern.example,localhost,127.0.0.1,::1"


@pytest.mark.parametrize("environ", [{}, {"no_proxy": "x"}, {"http_proxy": DEAD, "no_proxy": "*"}, {"http_proxy": ""}])
def test_nothing_changes_where_no_proxy_would_be_used(environ: dict[str, str]) -> None:
    before = dict(environ)
    keep_loopback_direct(environ)
    assert environ == before
