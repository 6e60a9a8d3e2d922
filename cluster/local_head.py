"""One-node Ray cluster on this machine, with token authentication and the dashboard, for tests and experiments.

Runs `ray start --head` in the foreground, so that ending one process ends the whole cluster and nothing else.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import ClusterError

_START_TIMEOUT_S = 180.0
_STOP_TIMEOUT_S = 30.0
# Above those of Ray's workers, and below those that Linux and macOS give to connections.
_PORTS = range(20_000, 32_768)


@dataclass(frozen=True)
class LocalHead:
    """Addresses and token of a running head.

    Args:
        gcs_address: Address for `ray.init` and `--address`.
        dashboard_url: URL for `ray job submit`.
        token: Token that every client needs.
    """

    gcs_address: str
    dashboard_url: str
    token: str

    @property
    def client_environment(self) -> dict[str, str]:
        """Environment variables of a client process."""
        return {
            **_clean_environment(),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "RAY_API_SERVER_ADDRESS": self.dashboard_url,
        }


@contextlib.contextmanager
def local_head(*, num_cpus: int | None = None, environment: Mapping[str, str] | None = None) -> Iterator[LocalHead]:
    """Start a head, block until it accepts jobs, and stop it afterwards.

    Args:
        num_cpus: Number of CPUs to declare; None declares the machine's.
        environment: Further variables for its processes and its jobs.

    Raises:
        ClusterError: It did not answer within the timeout; the message holds its output.
    """
    gcs_port, dashboard_port, agent_port = _free_ports(3)
    # Ray's sockets need a short path. A folder of its own hides it from `ray.init("auto")` elsewhere; Ray makes its
    # folder writable for everyone, so it gets a subfolder of a private folder.
    with tempfile.TemporaryDirectory(prefix="ss-ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        head = LocalHead(f"127.0.0.1:{gcs_port}", f"http://127.0.0.1:{dashboard_port}", secrets.token_hex(32))
        command = [_ray_command(), "start", "--head", "--block", "--disable-usage-stats", f"--port={gcs_port}"]
        command += ["--node-ip-address=127.0.0.1", "--include-dashboard=true", f"--dashboard-port={dashboard_port}"]
        # Another Ray on this machine holds the agent's usual port, without which a head takes no jobs.
        command += [f"--temp-dir={folder}/r", f"--dashboard-agent-listen-port={agent_port}"]
        command += [f"--num-cpus={num_cpus}"] if num_cpus else []
        log = Path(folder) / "start.log"
        with log.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603
                command,
                env={**head.client_environment, **(environment or {})},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            _wait_until_ready(head, process, log)
            yield head
        finally:
            _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Terminate the head, then kill the rest of its process group and nothing else."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_TIMEOUT_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _wait_until_ready(head: LocalHead, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until an empty job is accepted: the dashboard answers some seconds before it accepts jobs."""
    deadline = time.monotonic() + _START_TIMEOUT_S
    request = urllib.request.Request(  # noqa: S310 - our own address
        f"{head.dashboard_url}/api/jobs/",
        data=json.dumps({"entrypoint": "true"}).encode(),
        headers={"Authorization": f"Bearer {head.token}", "Content-Type": "application/json"},
    )
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(request, timeout=30):  # noqa: S310
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise ClusterError(f"the Ray head did not start:\n{log.read_text(errors='replace')}")


def _ray_command() -> str:
    """Return the path of the `ray` command of this environment."""
    return str(Path(sys.executable).with_name("ray"))


def _clean_environment() -> dict[str, str]:
    """Return this process's environment without Ray settings, and with this virtual environment first on PATH."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    return kept | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", os.defpath)])}


def _free_ports(count: int) -> list[int]:
    """Return different ports on which nothing listens, and which the system gives to no connection until Ray listens.

    Raises:
        ClusterError: There are not as many.
    """
    drawn = random.SystemRandom().sample(_PORTS, len(_PORTS))
    found = list(itertools.islice(filter(_is_free, drawn), count))
    if len(found) < count:
        raise ClusterError(f"{count} of the ports {_PORTS.start} to {_PORTS.stop - 1} must be free; {len(found)} are")
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
