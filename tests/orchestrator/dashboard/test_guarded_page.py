"""Requests that the guarded page accepts and refuses, over real HTTP."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from optuna_dashboard import wsgi

from orchestrator.dashboard.guarded_page import GuardedPage
from orchestrator.dashboard.pages import study_server
from orchestrator.search.storage import open_storage
from orchestrator.search.study import open_study
from tests.support.servers.ports import free_port
from tests.support.sweeps.objectives import TWO_OBJECTIVES
from tests.support.sweeps.plans import search_plan

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    storage = open_storage(f"sqlite:///{tmp_path_factory.mktemp('studies') / 'optuna.db'}")
    for name in ("one", "two", "three", "four"):
        open_study(search_plan(TWO_OBJECTIVES), name, storage)
    number = free_port()
    with study_server(wsgi(storage), "127.0.0.1", number) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield number
        server.shutdown()
        thread.join()


def ask(port: int, method: str, path: str, **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def studies(port: int) -> set[int]:
    return {study["study_id"] for study in json.loads(ask(port, "GET", "/api/studies")[1])["study_summaries"]}


def test_only_the_address_that_is_served_is_answered(port: int) -> None:
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"LOCALHOST:{port}", f"[::1]:{port}"):
        assert ask(port, "GET", "/api/studies", Host=host)[0] == 200
    strangers = ["evil.example", f"evil.example:{port}", "localhost", f"localhost:{port + 1}", f"localhost.evil:{port}"]
    for host in [*strangers, f"10.0.0.1:{port}", f"evil@localhost:{port}", f"localhost:{port}/x", "[::1", ""]:
        status, text = ask(port, "GET", "/api/studies", Host=host)
        assert status == 403, host
        assert text.count("\n") == 1
        assert "study_summaries" not in text


def test_another_page_changes_nothing(port: int) -> None:
    before, own = studies(port), f"http://127.0.0.1:{port}"
    study = min(before)
    for headers in (
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": f"http://127.0.0.1:{port + 1}"},
        {"Origin": f"http://localhost:{port}"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Origin": own, "Sec_Fetch_Site": "cross-site"},
    ):
        for method, path in (("DELETE", f"/api/studies/{study}"), ("POST", "/api/studies"), ("PUT", "/api/x")):
            status, text = ask(port, method, path, **headers)
            assert (status, text.count("\n")) == (403, 1), (method, headers)
    assert studies(port) == before


def test_its_own_page_and_a_program_change_what_they_ask(port: int) -> None:
    own = f"http://127.0.0.1:{port}"
    for headers in ({"Origin": own, "Sec_Fetch_Site": "same-origin"}, {"Sec_Fetch_Site": "none"}, {}):
        before = studies(port)
        assert ask(port, "DELETE", f"/api/studies/{min(before)}", **headers)[0] == 204
        assert studies(port) == before - {min(before)}


def test_no_other_page_may_frame_it(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/dashboard/")
    answer = connection.getresponse()
    assert (answer.status, answer.getheader("X-Frame-Options")) == (200, "SAMEORIGIN")
    connection.close()


def test_a_page_for_all_addresses_is_answered_by_number_and_by_the_name_of_the_machine(tmp_path: Path) -> None:
    everywhere, named = (GuardedPage(lambda *_: [], host, 8080) for host in ("0.0.0.0", "head.example"))
    for host in ("192.168.1.5:8080", "[fe80::1]:8080", f"{socket.gethostname()}:8080", "localhost:8080"):
        assert everywhere._is_served(host)
    assert not everywhere._is_served("evil.example:8080")
    assert named._is_served("Head.example:8080")
    assert not named._is_served("192.168.1.5:8080")
