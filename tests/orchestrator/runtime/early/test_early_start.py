"""Instance that starts early: who gets it, who does not, and its end. Its starter starts other processes than Ray's."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from orchestrator.errors import ClusterError
from orchestrator.runtime.early import early_start
from orchestrator.runtime.early.early_start import EarlyInstance, begin_early, end_early, take_instance
from orchestrator.runtime.forking import fork_server
from orchestrator.runtime.forking.environment import chosen_address
from tests.support.waiting import wait_for

ROOT = Path(__file__).resolve().parents[4]
# Starts a process with a child, as the raylet has its agents; waits for a file before it has started.
STARTER = """
import json, logging, os, pathlib, subprocess, sys, time
HERE = pathlib.Path(__file__).parent

def make_folder():
    folder = HERE / "folder"
    folder.mkdir()
    return folder

def start(folder, *, verbose, fork_server):
    (folder / "socket").write_text("")
    command = [sys.executable, "-c", "import subprocess; subprocess.run(['sleep', '600'])"]
    process = subprocess.Popen(command)
    (HERE / "pids").write_text(f"{os.getpid()} {process.pid}")
    while not (HERE / "go").exists():
        time.sleep(0.01)
    if (HERE / "fail").exists():
        raise OSError("no memory")
    if (HERE / "die").exists():
        os.write(json.loads(sys.argv[1])["channel"], b'{"address": "127.0')
        os.kill(os.getpid(), 9)
    logging.getLogger("orchestrator.folder").warning("a warning")
    return {"address": "127.0.0.1:1", "token": {"RAY_AUTH_MODE": "token"}, "logs": str(folder / "logs")}

def stop():
    (HERE / "stopped").write_text("")
"""
DRIVER = """
import sys, time
from orchestrator.runtime.early import early_start
early_start._instances.append(early_start.EarlyInstance(None, verbose=False, starter="starter_of_test"))
print("begun", flush=True)
"""


class Starter:
    """A starter in a folder, and what it has started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "starter_of_test.py").write_text(STARTER)

    def go(self) -> None:
        (self.folder / "go").write_text("")

    @property
    def processes(self) -> list[psutil.Process]:
        """Its process and all below, once they run."""
        wait_for(lambda: (self.folder / "pids").exists() and len((self.folder / "pids").read_text().split()) == 2)
        own, child = map(int, (self.folder / "pids").read_text().split())
        wait_for(lambda: psutil.Process(child).children())
        return [psutil.Process(own), psutil.Process(child), *psutil.Process(child).children()]

    @property
    def is_stopped(self) -> bool:
        """True where it was ended as Ray ends an instance."""
        return (self.folder / "stopped").exists()


def are_gone(processes: list[psutil.Process]) -> bool:
    return not any(map(_runs, processes))


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def end_all(processes: list[psutil.Process]) -> None:
    """End what only Ray's processes do by themselves when the one that has started them is killed."""
    for process in processes:
        process.kill()


@pytest.fixture
def starter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Starter]:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(early_start, "_instances", [])
    yield Starter(tmp_path)
    end_early()


def begun() -> EarlyInstance:
    """Begin an instance as `begin_early` does."""
    early_start._instances.append(EarlyInstance(None, verbose=False, starter="starter_of_test"))
    return early_start._instances[-1]


def test_a_session_gets_it_once_and_its_end_leaves_nothing(starter: Starter, caplog: pytest.LogCaptureFixture) -> None:
    instance = begun()
    processes = starter.processes
    assert processes[0].pid == instance.pid
    starter.go()
    assert take_instance(None, verbose=False) is instance
    assert (instance.address, instance.token) == ("127.0.0.1:1", {"RAY_AUTH_MODE": "token"})
    assert caplog.messages == ["a warning"]
    assert take_instance(None, verbose=False) is None
    instance.use()
    os.kill(instance.pid, signal.SIGINT)  # as a terminal sends it to all processes
    os.kill(instance.pid, signal.SIGTERM)
    assert not are_gone(processes[:1])
    end_early()
    assert are_gone(processes)
    assert starter.is_stopped
    assert not (starter.folder / "folder").exists()


def test_its_folder_stays_for_an_error_that_needs_the_logs(starter: Starter) -> None:
    instance = begun()
    starter.go()
    assert take_instance(None, verbose=False) is instance
    instance.use()
    instance.keep_folder()
    instance.close()
    assert (starter.folder / "folder" / "socket").exists()


@pytest.mark.parametrize("changed", ["environment", "folder", "verbose"])
def test_one_that_does_not_suit_is_ended(
    starter: Starter, changed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun()
    processes = starter.processes  # it never starts: nothing waits for it
    if changed == "environment":
        monkeypatch.setenv("MKL_CBWR", "AVX2")
    elif changed == "folder":
        monkeypatch.chdir(tmp_path)
    assert take_instance(None, verbose=changed == "verbose") is None
    assert are_gone(processes)
    assert not (starter.folder / "folder").exists()
    assert not starter.is_stopped


@pytest.mark.parametrize(
    ("fault", "reason"),
    [("fail", "OSError: no memory"), ("die", "it has ended")],  # an error in its answer, or its end within the answer
)
def test_one_that_cannot_start_is_ended(
    starter: Starter, caplog: pytest.LogCaptureFixture, fault: str, reason: str
) -> None:
    begun()
    processes = starter.processes
    (starter.folder / fault).write_text("")
    starter.go()
    caplog.set_level(logging.DEBUG, early_start.__name__)
    assert take_instance(None, verbose=False) is None
    assert caplog.messages == [f"An instance could not be started early: {reason}"]
    if fault == "die":  # what it has started ends with it where it is Ray's
        assert are_gone(processes[:1])
        end_all(processes[1:])
    else:
        assert are_gone(processes)
        assert not (starter.folder / "folder").exists()


@pytest.mark.parametrize("kept", [False, True])
def test_the_folder_of_one_that_must_be_killed_is_removed_unless_its_logs_are_needed(
    starter: Starter, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = begun()
    processes = starter.processes
    monkeypatch.setattr(early_start, "_END_S", 0.1)
    processes[0].suspend()  # before it has answered
    if kept:
        instance.keep_folder()
    end_early()
    assert are_gone(processes[:1])
    assert (starter.folder / "folder").exists() is kept
    end_all(processes[1:])


def test_it_is_broken_off_while_its_starter_is_imported(starter: Starter) -> None:
    (starter.folder / "starter_of_test.py").write_text(
        "import pathlib, time\npathlib.Path(__file__).with_name('begun').touch()\nwhile True: time.sleep(0.01)"
    )
    instance = begun()
    wait_for((starter.folder / "begun").exists)
    end_early()
    assert instance._process.returncode == 0  # it was not killed
    assert not (starter.folder / "folder").exists()


@pytest.mark.parametrize("end", ["killed", "interrupted", "failed", "killed after the start"])
def test_nothing_is_left_of_it_when_the_driver_ends(starter: Starter, end: str) -> None:
    failure = "raise ImportError('a module')" if end == "failed" else "time.sleep(600)"
    environ = os.environ | {"PYTHONPATH": f"{starter.folder}:{ROOT}"}
    driver = subprocess.Popen(
        [sys.executable, "-c", f"{DRIVER}\nsys.stdin.readline()\n{failure}"],
        env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert driver.stdout is not None
    assert driver.stdin is not None
    assert driver.stdout.readline() == "begun\n"
    processes = starter.processes
    if end == "killed after the start":
        starter.go()
    driver.stdin.write("\n")
    driver.stdin.flush()
    if end == "interrupted":
        driver.send_signal(signal.SIGINT)
    elif end != "failed":
        driver.kill()
    _, errors = driver.communicate(timeout=250)
    if end in {"interrupted", "failed"}:
        assert are_gone(processes), errors  # before the driver itself has ended
    wait_for(lambda: are_gone(processes) and not (starter.folder / "folder").exists())
    assert not starter.is_stopped


def test_none_is_begun_where_a_cluster_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(early_start, "EarlyInstance", lambda *_, **__: pytest.fail("it was started"))
    monkeypatch.setattr(fork_server, "begin", lambda _: pytest.fail("it was started"))
    begin_early("auto", ("json",))
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.7:6379")
    begin_early(None, ("json",))
    assert chosen_address(None) == "10.0.0.7:6379"
    monkeypatch.delenv("RAY_ADDRESS")
    assert chosen_address(None) == "local"


def test_the_session_starts_its_own_with_a_version_of_ray_that_was_not_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(fork_server.SWITCH, "0")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(early_start, "version", lambda _: "2.99.0")
    monkeypatch.setattr(early_start, "EarlyInstance", lambda *_, **__: pytest.fail("it was started"))
    begin_early(None, ("json",))
    monkeypatch.setenv(fork_server.SWITCH, "no")
    with pytest.raises(ClusterError, match="SPATIALSWEEP_FORK_WORKERS is 'no'"):
        begin_early(None, ("json",))
