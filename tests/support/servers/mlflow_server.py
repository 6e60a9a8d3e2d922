"""MLflow server for tests that can be killed and started again, and a slow, lossy proxy in front of it."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from orchestrator.tracking.mlflow_client import place_empty_database
from tests.support.servers.ports import free_port

# `urlopen` would keep the proxies of the environment in which a process calls it first.
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def healthy(url: str) -> bool:
    try:
        with DIRECT.open(url, timeout=5) as answer:
            return int(answer.status) == 200
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


class MlflowServer:
    """`mlflow server` over a database in a folder, or any other command that serves the same on a port.

    Args:
        folder: Folder of its database, artifacts and log.
        command: Command instead of the plain server, without `--port`; `{port}` in it is replaced.
        environment: Variables added to those of this process.
    """

    def __init__(
        self, folder: Path, command: list[str] | None = None, environment: Mapping[str, str] | None = None
    ) -> None:
        self.folder, self.port = folder, free_port()
        self._command = [part.format(port=self.port) for part in command or ()]
        self._environment = environment or {}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def start(self) -> None:
        database = f"sqlite:///{self.folder / 'mlflow.db'}"
        if not self._command:
            place_empty_database(database)  # the migrations of a new one would take a second
        plain = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--workers", "1"]
        plain += ["--backend-store-uri", database]
        plain += ["--artifacts-destination", str(self.folder / "artifacts")]
        quick = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "NO_PROXY": "*"}
        environment = {**os.environ, **quick, **self._environment}
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._command, "--port", str(self.port)] if self._command else [*plain, "--port", str(self.port)],
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=environment,
            )
        deadline = time.monotonic() + 240
        while not healthy(f"{self.uri}/health"):
            assert self._process.poll() is None and time.monotonic() < deadline, self.log
            time.sleep(0.1)

    def kill(self) -> None:
        """Kill the server and its workers at once."""
        self._end("KILL")

    def stop(self) -> None:
        self._end("TERM")

    def _end(self, signal: str) -> None:
        if self._process is not None:
            subprocess.run(["kill", f"-{signal}", "--", f"-{self._process.pid}"], check=False)
            self._process.wait(60)
            self._process = None


class BadConnection:
    """Proxy of a server that delays data and breaks connections, before a request or its answer has arrived.

    Args:
        port: Port of the server on this machine.

    Attributes:
        delay_s: Delay in seconds before each piece is passed on.
        lose_share: Share of the pieces that are lost, each with its connection.
        lose_answers: Whether every piece of an answer is lost.
        lost: Number of pieces lost so far.
        refused: Number of connections that found no server.
    """

    def __init__(self, port: int) -> None:
        self._server = port
        self.delay_s, self.lose_share, self.lost = 0.0, 0.0, 0
        self.lose_answers = False
        self.refused = 0
        self._draws = random.Random(0)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)

    def _accept(self) -> None:
        while True:
            try:
                caller, _ = self._listener.accept()
            except OSError:  # closed
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._server), timeout=60)
            except OSError:  # it is not running
                caller.close()
                self.refused += 1
                continue
            for source, target, answers in ((caller, server, False), (server, caller, True)):
                threading.Thread(target=self._pass, args=(source, target, answers), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        try:
            while (piece := source.recv(65_536)) and not self._is_lost(answers):
                time.sleep(self.delay_s)
                target.sendall(piece)
        except OSError:  # either end has gone
            pass
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _is_lost(self, answers: bool) -> bool:
        lost = self._draws.random() < self.lose_share or (answers and self.lose_answers)
        self.lost += lost
        return lost
