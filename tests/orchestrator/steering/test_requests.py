"""Requests to a driver and their answers, as files that anybody may have written."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.steering import requests_of
from orchestrator.errors import ConfigError, SweepNameError
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.steering.client import send_request, stop_trial
from orchestrator.steering.request_folder import RequestFolder
from orchestrator.steering.requests import Answer, Enqueue, SteeringError, SteerTrial, parse_request

ID = "0123456789abcdef" * 2


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def requests(tmp_path: Path) -> RequestFolder:
    return RequestFolder(SweepFolder(tmp_path))


@pytest.fixture
def running(tmp_path: Path) -> Iterator[SweepFolder]:
    folder = SweepFolder(tmp_path / "s")
    folder.path.mkdir()
    folder.journal.write_text("begun\n")
    with folder.driven():
        yield folder


def test_requests_arrive_in_order_and_once(requests: RequestFolder) -> None:
    sent = [SteerTrial(kind="stop", trial=3), Enqueue(settings={"lr": 0.1, "order": 2, "unary": "dcn", "gate": True})]
    numbers = []
    for request in sent:
        numbers.append(requests.send(request))
        time.sleep(0.01)
    found = list(requests.pending())
    assert [number for number, _ in found] == numbers
    assert [parse_request(content) for _, content in found if isinstance(content, bytes)] == sent
    assert list(requests.pending()) == []
    requests.answer(numbers[0], Answer(done=True, text="done"))
    assert requests.wait(numbers[0], 0.0) == Answer(done=True, text="done")
    assert names(requests.path) == []
    assert requests.path.stat().st_mode & 0o777 == 0o700


def test_a_request_is_withdrawn_once(requests: RequestFolder) -> None:
    number = requests.send(SteerTrial(kind="pause", trial=0))
    assert requests.wait(number, 0.0) is None
    assert requests.withdraw(number)
    assert not requests.withdraw(number)
    assert list(requests.pending()) == []


def link(path: Path) -> None:
    (path.parent.parent / "secret").write_text('{"kind": "end"}')
    path.symlink_to(path.parent.parent / "secret")


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (link, "links are not followed"),
        (os.mkfifo, "is no ordinary file"),
        (lambda path: path.write_bytes(b" " * 70_000), "is larger than 65536 bytes"),
    ],
    ids=["link", "fifo", "large"],
)
def test_a_hostile_file_is_refused_and_removed(requests: RequestFolder, make: Any, fault: str) -> None:
    requests.path.mkdir()
    make(requests.path / f"{ID}.json")
    ((number, found),) = requests.pending()
    assert number == ID
    assert isinstance(found, SteeringError)
    assert fault in str(found)
    assert names(requests.path) == []


def test_a_folder_of_that_name_other_names_and_a_linked_folder_are_ignored(tmp_path: Path) -> None:
    requests = RequestFolder(SweepFolder(tmp_path))
    requests.path.mkdir()
    (requests.path / f"{ID}.json").mkdir()
    (requests.path / "..json").write_text("{}")
    (requests.path / f"{ID}.answer.json").write_text("{}")
    assert list(requests.pending()) == []
    other = RequestFolder(SweepFolder(tmp_path / "other"))
    (tmp_path / "other").mkdir()
    other.path.symlink_to(requests.path)
    (requests.path / f"{'f' * 32}.json").write_text("{}")
    assert list(other.pending()) == []
    with pytest.raises(SteeringError, match=r"is not a folder; remove it"):
        other.send(SteerTrial(kind="stop", trial=0))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[" * 60_000,
        b'{"kind": "delete"}',
        b'{"kind": "stop"}',
        b'{"kind": "stop", "trial": "1"}',
        b'{"kind": "stop", "trial": -1}',
        b'{"kind": "stop", "trial": 1e99}',
        b'{"kind": "stop", "trial": 1, "more": 2}',
        b'{"kind": "enqueue", "settings": {}}',
        b'{"kind": "enqueue", "settings": {"lr": [1]}}',
        b'{"kind": "enqueue", "settings": {"lr": NaN}}',
        b'{"kind": "set", "assignments": "trials=4"}',
        json.dumps({"kind": "set", "assignments": ["x=1"] * 201}).encode(),
        json.dumps({"kind": "set", "assignments": ["x" * 5_000]}).encode(),
    ],
)
def test_content_that_is_no_request_is_one_error(content: bytes) -> None:
    with pytest.raises(SteeringError, match=r"^the request cannot be read: "):
        parse_request(content)


def test_old_requests_and_forgotten_answers_are_removed(requests: RequestFolder) -> None:
    requests.send(SteerTrial(kind="stop", trial=0))
    requests.answer(ID, Answer(done=True, text=""))
    requests.answer("f" * 32, Answer(done=True, text=""))
    os.utime(requests.path / f"{ID}.answer.json", (0, 0))
    requests.clear()
    assert names(requests.path) == ["f" * 32 + ".answer.json"]


def test_a_hostile_answer_is_one_error(requests: RequestFolder) -> None:
    requests.path.mkdir()
    answer = requests.path / f"{ID}.answer.json"
    answer.write_text('{"done": "yes"}')
    with pytest.raises(SteeringError, match="is no answer of a driver"):
        requests.wait(ID, 0.0)
    link(answer)
    with pytest.raises(SteeringError, match="links are not followed"):
        requests.wait(ID, 0.0)


def test_a_sweep_that_is_not_running_names_the_way_to_resume_it(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    folder.mkdir()
    (folder / "journal.jsonl").write_text("begun\n")
    with pytest.raises(SteeringError, match=r"sweep 's' is not running. `spatialsweep resume s --set KEY=VALUE`"):
        send_request(folder, {"kind": "set", "assignments": ["trials=3"]})
    with pytest.raises(SweepNameError, match=r"Did you mean 's'"):
        stop_trial("ss", 0, runs_dir=tmp_path)
    assert sorted(names(folder)) == ["journal.jsonl"]


def test_a_driver_that_does_not_answer_is_one_line_and_the_request_is_withdrawn(running: SweepFolder) -> None:
    with pytest.raises(SteeringError, match=r"has not answered for 0.1 s. The request is withdrawn$"):
        send_request(running.path, {"kind": "stop", "trial": 1}, timeout_s=0.1)
    assert names(RequestFolder(running).path) == []


def test_an_answer_is_returned_and_a_refusal_raised(running: SweepFolder) -> None:
    requests = RequestFolder(running)
    stopped = threading.Event()

    def driver() -> None:
        while not stopped.wait(0.01):
            for number, content in requests.pending():
                assert isinstance(content, bytes)
                trial = json.loads(content)["trial"]
                requests.answer(number, Answer(done=trial == 1, text=f"trial {trial}"))

    thread = threading.Thread(target=driver)
    thread.start()
    assert stop_trial(running.path, 1) == "trial 1"
    with pytest.raises(SteeringError, match=r"^trial 2$"):
        stop_trial(running.path, 2)
    stopped.set()
    thread.join()


@pytest.mark.parametrize(
    ("action", "values", "error"),
    [
        ("stopp", ["1"], "tell: action: unknown 'stopp'. Did you mean 'stop'?"),
        ("stop", [], "tell: stop: needs numbers of trials"),
        ("stop", ["one"], "tell: stop: got 'one'; a trial is named by its number, such as 3"),
        ("end", ["3"], "tell: end: got 3; takes no value. Use `stop` for a trial"),
        ("set", [], "tell: set: needs assignments such as lr=0.01"),
        ("enqueue", ["lr"], "tell: enqueue: got 'lr'; a value is written NAME=VALUE, such as lr=0.01"),
    ],
)
def test_a_wrong_command_is_one_error(action: str, values: list[str], error: str) -> None:
    with pytest.raises(ConfigError) as caught:
        requests_of(action, values)
    assert str(caught.value) == error


def test_values_of_the_command_line_are_read_as_yaml() -> None:
    (request,) = requests_of("enqueue", ["lr=1e-3", "optimizer=sgd", "sgd/nesterov=true", "order=2"])
    assert request["settings"] == {"lr": 0.001, "optimizer": "sgd", "sgd/nesterov": True, "order": 2}
    assert [request["trial"] for request in requests_of("stop", ["3", "4"])] == [3, 4]
