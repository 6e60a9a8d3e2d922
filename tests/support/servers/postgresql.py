"""PostgreSQL server for tests, in a temporary folder and on a free port."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.servers.ports import free_port

DEBIAN = Path("/usr/lib/postgresql")
PASSWORD = "drowssap"
_PATIENCE_S = 240


def server_programs() -> Path | None:
    """Return the folder of `initdb` and `pg_ctl`; None without an installed server."""
    found = [path.parent for path in DEBIAN.glob("*/bin/initdb")]
    on_path = shutil.which("initdb")
    return max(found, default=Path(on_path).parent if on_path else None, key=lambda path: int(path.parent.name))


class PostgresqlServer:
    """Server that can be stopped and started again.

    Args:
        programs: Folder of the programs of the server.
        folder: Folder of the data, owned by the user that runs the server.
        port: Free port of this machine.
    """

    def __init__(self, programs: Path, folder: Path, port: int) -> None:
        self._programs, self._folder, self.port = programs, folder, port

    def uri(self, database: str = "postgres", password: str = PASSWORD) -> str:
        return f"postgresql://postgres:{password}@127.0.0.1:{self.port}/{database}"

    def create(self) -> None:
        secret = self._folder / "password"
        secret.write_text(PASSWORD)
        shutil.chown(secret, _owner()) if _owner() else None
        self._run("initdb", "-D", self._data, "-U", "postgres", "-A", "scram-sha-256", "--pwfile", secret, "--no-sync")

    def start(self) -> None:
        options = f"-p {self.port} -h 127.0.0.1 -k {self._folder} -c fsync=off"
        self._run(
            "pg_ctl", "-D", self._data, "-w", "-t", _PATIENCE_S, "-o", options, "-l", self._folder / "log", "start"
        )

    def stop(self) -> None:
        self._run("pg_ctl", "-D", self._data, "-w", "-t", _PATIENCE_S, "-m", "immediate", "stop")

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def _run(self, program: str, *arguments: object) -> None:
        # The daemon inherits pg_ctl's output, so that a pipe would never be closed.
        command = [str(self._programs / program), *map(str, arguments)]
        with (Path(tempfile.gettempdir()) / f"postgresql-{os.getpid()}.out").open("wb") as output:
            done = subprocess.run(command, user=_owner(), cwd=self._folder, stdout=output, stderr=output, check=False)
        text = Path(output.name).read_text()
        Path(output.name).unlink()
        assert done.returncode == 0, f"{' '.join(command)}\n{text}"


@contextmanager
def postgresql_server() -> Iterator[PostgresqlServer]:
    """Start a server with an empty database; stop and remove it at the end of the context."""
    programs = server_programs()
    assert programs is not None
    folder = Path(tempfile.mkdtemp(prefix="spatialsweep-postgresql-"))
    try:
        if _owner():
            shutil.chown(folder, _owner())
        server = PostgresqlServer(programs, folder, free_port())
        server.create()
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)


def _owner() -> str | None:
    """Return the user that runs the server, which refuses to run as root; None for the current user."""
    return "postgres" if os.getuid() == 0 else None
