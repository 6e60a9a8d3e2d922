"""Fork server: what its workers take over, when it refuses, and its end."""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.errors import ClusterError
from orchestrator.lanes.lane_modules import LANE_MODULES
from orchestrator.runtime.forking import fork_server, start_worker
from orchestrator.runtime.forking.environment import differences, prepare_environment
from orchestrator.runtime.forking.fork_server import ForkServer
from orchestrator.runtime.forking.start_worker import SCRIPT, SOCKET
from tests.support.waiting import wait_for

ROOT = Path(__file__).resolve().parents[4]
CLIENT = ROOT / "orchestrator" / "runtime" / "forking" / "start_worker.py"
# In place of Ray's script: writes what a worker can see of its own process.
WORKER = """
import json, os, random, resource, signal, sys
import numpy, ray
if __name__ == "__main__":
    state = {
        "argv": sys.argv, "path": sys.path, "folder": os.getcwd(), "environ": dict(os.environ), "umask": os.umask(0),
        "niceness": os.getpriority(os.PRIO_PROCESS, 0), "oom": open("/proc/self/oom_score_adj").read(),
        "group": os.getpgrp() == os.getpid(), "in": sys.stdin.read(),
        "ignored": [int(s) for s in signal.valid_signals() if signal.getsignal(s) is signal.SIG_IGN],
        "blocked": [int(s) for s in signal.pthread_sigmask(signal.SIG_BLOCK, [])],
        "files": resource.getrlimit(resource.RLIMIT_NOFILE), "processors": sorted(os.sched_getaffinity(0)),
        "interrupt": signal.getsignal(signal.SIGINT) is signal.default_int_handler, "main": __file__,
    }
    drawn = [random.random(), numpy.random.random()]
    print("to stderr", file=sys.stderr)
    print(json.dumps({"state": state, "drawn": drawn, "parent": os.getppid()}))
"""


FILES = 240


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    server = ForkServer(["numpy"])
    with server.session():
        yield server
    server.close()


def start(socket_path: str, folder: Path, **environ: str) -> tuple[dict[str, Any], str]:
    """Start a worker as the raylet does; return what it has printed, and its standard error."""
    script = folder / "worker.py"
    script.write_text(WORKER)
    own = {SOCKET: socket_path, SCRIPT: str(script), "RAY_RAYLET_PID": str(os.getpid()), "RAY_JOB_ID": "01000000"}

    def of_the_raylet() -> None:
        os.nice(3)
        os.umask(0o027)
        os.setpgid(0, 0)
        resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    with (folder / "out").open("w+") as out, (folder / "err").open("w+") as err:
        command = [sys.executable, str(CLIENT), "--worker-id=7", "--path=a b"]
        settings: Any = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": err, "preexec_fn": of_the_raylet}
        subprocess.run(command, env={**os.environ, **own, **environ}, cwd=folder, timeout=180, check=True, **settings)
        wait_for(lambda: (folder / "out").read_text().endswith("\n"))
    return json.loads((folder / "out").read_text()), (folder / "err").read_text()


def test_a_forked_worker_is_like_one_that_is_not(server: ForkServer, tmp_path: Path) -> None:
    forked, errors = start(server.socket, tmp_path)
    assert forked["parent"] == server.pid
    assert errors == "to stderr\n"
    plain, errors = start(str(tmp_path / "nothing"), tmp_path)
    assert plain["parent"] == os.getpid()
    assert errors.splitlines()[0].startswith("A worker starts without the fork server: the fork server does not answer")
    for found in (forked, plain):  # set when Ray is imported, and read by nothing after that
        found["state"]["environ"].pop("RAY_CLIENT_MODE", None)
    assert forked["state"] == plain["state"]
    state = forked["state"]
    assert state["argv"] == [str(tmp_path / "worker.py"), "--worker-id=7", "--path=a b"]
    assert (state["folder"], state["umask"], state["niceness"]) == (str(tmp_path), 0o027, os.nice(0) + 3)
    assert (state["files"][0], len(state["processors"])) == (FILES, 1)
    assert not {SOCKET, SCRIPT, "OPENBLAS_NUM_THREADS"} & set(state["environ"])


def test_workers_draw_different_numbers(server: ForkServer, tmp_path: Path) -> None:
    first, second = (start(server.socket, tmp_path)[0]["drawn"] for _ in range(2))
    assert not set(first) & set(second)


def test_a_worker_with_another_environment_is_not_forked(server: ForkServer, tmp_path: Path) -> None:
    worker, errors = start(server.socket, tmp_path, MKL_CBWR="AVX2")
    assert worker["parent"] == os.getpid()
    assert worker["state"]["environ"]["MKL_CBWR"] == "AVX2"
    reason = "it needs another environment (MKL_CBWR)"
    assert errors.splitlines()[0] == f"A worker starts without the fork server: {reason}"
    wait_for(lambda: reason in server._new_faults())


@pytest.mark.parametrize("message", [b"", b"\0\0\0\2[]", b"\xff\xff\xff\xff", b"\0\0\0\2{}", b"\0\0\0\7{broken"])
def test_a_malformed_request_changes_nothing(server: ForkServer, message: bytes, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(server.socket)
        client.sendall(message)
        client.shutdown(socket.SHUT_WR)
        assert b"GO" not in client.recv(1000)
    assert start(server.socket, tmp_path)[0]["parent"] == server.pid


def test_a_worker_that_cannot_be_taken_over_starts_as_usual(server: ForkServer, tmp_path: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    worker, errors = start(server.socket, tmp_path, RAY_RAYLET_PID=str(ended.pid))
    assert worker["parent"] == os.getpid()
    reason = "a forked process cannot become the worker: NoSuchProcess"
    assert errors.startswith(f"A worker starts without the fork server: {reason}")
    wait_for(lambda: any(fault.startswith(reason) for fault in server._new_faults()))


def test_a_forked_process_for_which_nobody_waits_any_more_ends(
    server: ForkServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    for name, value in {SCRIPT: str(script), "RAY_RAYLET_PID": str(os.getpid())}.items():
        monkeypatch.setenv(name, value)
    payload = json.dumps(start_worker._own_state()).encode()
    with socket.socket(socket.AF_UNIX) as client, (tmp_path / "out").open("wb") as out:
        client.connect(server.socket)
        socket.send_fds(client, [len(payload).to_bytes(4, "big")], [0, out.fileno(), out.fileno()])
        client.sendall(payload)
        assert client.recv(100) == start_worker.GO
        client.shutdown(socket.SHUT_RD)
        client.sendall(json.dumps(start_worker._late_state()).encode() + b"\n")
        wait_for(lambda: any("was too late" in fault for fault in server._new_faults()))
    assert (tmp_path / "out").read_bytes() == b""
    wait_for(lambda: not psutil.Process(server.pid).children())


def test_a_server_that_is_too_slow_is_named_once_and_serves_the_next_worker(
    server: ForkServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(server.socket, tmp_path)  # so that it has begun to serve
    server._new_faults()  # of other tests
    monkeypatch.setattr(start_worker, "TIMEOUT_S", 0.1)
    for name, value in {SOCKET: server.socket, SCRIPT: str(tmp_path / "worker.py")}.items():
        monkeypatch.setenv(name, value)
    psutil.Process(server.pid).suspend()
    try:
        for _ in range(2):
            with pytest.raises(TimeoutError):
                start_worker._forked()
    finally:
        psutil.Process(server.pid).resume()
    monkeypatch.undo()
    assert start(server.socket, tmp_path)[0]["parent"] == server.pid
    late = "a worker was not forked: it did not answer within 0.1 s, as where the processors are busy"
    assert server._new_faults() == [late]
    wait_for(lambda: not psutil.Process(server.pid).children())


@pytest.mark.parametrize("late", [False, True])
def test_a_late_answer_is_no_second_worker(late: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start_worker, "FORK_TIMEOUT_S", 0.3 if late else 60.0)
    monkeypatch.setenv(SOCKET, str(tmp_path / "socket"))
    monkeypatch.setenv(SCRIPT, "worker.py")
    faults: list[OSError] = []
    given_up = threading.Event()

    def serve(listener: socket.socket) -> None:
        with listener.accept()[0] as client:
            client.sendall(start_worker.GO)
            while not client.recv(1_000_000).endswith(b"\n"):
                pass  # request, and late state
            if late:
                given_up.wait(60)
            try:
                client.sendall(start_worker.STARTED)
            except BrokenPipeError as error:
                faults.append(error)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        thread = threading.Thread(target=serve, args=[listener])
        thread.start()
        reason = start_worker._forked()
        given_up.set()
        thread.join()
    assert (reason, len(faults)) == (("it does not answer in time", 1) if late else ("", 0))


def test_signals_for_the_driver_do_not_end_it(server: ForkServer, tmp_path: Path) -> None:
    start(server.socket, tmp_path)  # so that it has begun to serve
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(server.pid, number)
    assert start(server.socket, tmp_path)[0]["parent"] == server.pid


def test_the_folder_of_the_socket_is_for_this_user_alone(server: ForkServer) -> None:
    assert Path(server.socket).parent.stat().st_mode & 0o777 == 0o700


def test_a_server_is_kept_for_the_next_session_that_it_suits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fork_server, "version", lambda _: "2.60.0")
    modules = ["json"]
    first = fork_server.begin(modules)
    assert first is not None
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of the next instance")
    assert fork_server.begin(modules) is first
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    second = fork_server.begin(modules)
    assert second is not None
    assert second is not first
    assert gone(first.pid)
    assert not Path(first.socket).parent.exists()
    assert not second.suits(["sys"])
    second.close()
    assert not second.suits(modules)


def test_a_server_that_cannot_import_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    server = ForkServer(["no_such_module"])
    with caplog.at_level(logging.WARNING), server.session():
        wait_for(lambda: gone(server.pid))
    assert "without the fork server, which takes longer: it cannot import what workers need: Mod" in caplog.text
    assert not Path(server.socket).parent.exists()
    server.close()


def test_a_server_that_is_killed_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    server = ForkServer(["json"])
    with caplog.at_level(logging.WARNING), server.session():
        os.kill(server.pid, signal.SIGKILL)
        wait_for(lambda: gone(server.pid))
    assert "it has ended with code -9" in caplog.text
    server.close()


def test_modules_that_start_threads_are_not_forked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "threaded.py").write_text(
        "import threading, time\nthreading.Thread(target=time.sleep, args=[60]).start()"
    )
    monkeypatch.syspath_prepend(tmp_path)
    server = ForkServer(["threaded"])
    wait_for(lambda: gone(server.pid))
    assert any("the imports have started threads" in fault for fault in server._new_faults())
    server.close()


@pytest.mark.parametrize("importing", [False, True])
def test_it_ends_with_the_driver(tmp_path: Path, importing: bool) -> None:
    (tmp_path / "endless.py").write_text("import os, time\nos.write(1, b'importing\\n')\nwhile True: time.sleep(0.01)")
    code = f"""
        import os, signal, sys, time
        from orchestrator.runtime.forking.fork_server import ForkServer
        sys.path.append({str(tmp_path)!r})
        server = ForkServer(["endless" if {importing} else "json"])
        while {importing} and not server._new_faults():
            time.sleep(0.01)  # until the import has begun
        print(server.pid, server.socket, flush=True)
        server._write(b"+")
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, cwd=ROOT)
    pid, path = done.stdout.split()
    wait_for(lambda: gone(int(pid)))
    assert not Path(path).parent.exists()


def test_it_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(fork_server.SWITCH, "0")
    assert fork_server.begin(LANE_MODULES) is None
    monkeypatch.setenv(fork_server.SWITCH, "no")
    with pytest.raises(ClusterError, match=r"SPATIALSWEEP_FORK_WORKERS is 'no'\. Set it to 1, or to 0"):
        fork_server.begin(LANE_MODULES)


def test_variables_of_one_worker_may_differ() -> None:
    ours = {"A": "1", "B": "2", "RAY_AUTH_TOKEN": "x", "LD_PRELOAD": "a"}
    theirs = {"A": "1", "C": "3", "RAY_AUTH_TOKEN": "y", "RAY_RAYLET_PID": "7", "LD_PRELOAD": "b"}
    assert differences(ours, theirs) == ["B", "C", "LD_PRELOAD"]
    environ = {"RAY_AIR_NEW_OUTPUT": "1"}
    prepare_environment(environ)
    assert environ["RAY_AIR_NEW_OUTPUT"] == "1"
    assert environ["TUNE_GLOBAL_CHECKPOINT_S"] == "inf"
