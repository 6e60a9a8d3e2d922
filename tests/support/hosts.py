"""Network hosts on one machine: each with network, process, mount and UTS namespaces of its own, joined by a switch.

A host has its own address, name, processes, `/tmp`, `/dev/shm` and `/etc/hosts`; the rest of the file system is that of
the machine, including Python and the checkout. Namespaces live as long as their first process, which the kernel kills
together with this one: nothing is left behind, and nothing outside them is changed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import psutil

ROOT = Path(__file__).resolve().parents[2]
_PROGRAMS = {"ip": "iproute2", "unshare": "util-linux", "nsenter": "util-linux", "setpriv": "util-linux"}
_ALL = ("--net", "--uts", "--mount", "--pid")
_ANSWER_S = 180
# `sleep` is the first process of its namespace and inherits that its children need not be waited for.
_STAY = "echo ready; trap '' CHLD; exec sleep infinity"


def missing() -> str:
    """Return why hosts cannot be created here; empty where they can."""
    absent = sorted({package for program, package in _PROGRAMS.items() if shutil.which(program) is None})
    if os.geteuid() != 0:
        return "network namespaces need root"
    return f"not installed: {', '.join(absent)}" if absent else ""


class _Namespaces:
    """Process that keeps namespaces alive; it is killed with this process, and everything in them with it."""

    def __init__(self, kinds: Sequence[str], script: str) -> None:
        command = ["setpriv", "--pdeathsig", "KILL", "unshare", *kinds, "--fork", "--kill-child", "--mount-proc"]
        self._keeper = subprocess.Popen(
            [*command, "sh", "-ec", f"{script}\n{_STAY}"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        )
        assert self._keeper.stdout is not None
        output = self._keeper.stdout.readline()
        assert output == b"ready\n", f"{kinds} cannot be created: {output!r}"
        (first,) = psutil.Process(self._keeper.pid).children()
        self.pid = first.pid

    def inside(self, kinds: Sequence[str], command: Sequence[str]) -> list[str]:
        return ["nsenter", "--target", str(self.pid), *kinds, "--", *command]

    def end(self) -> None:
        if self._keeper.poll() is None:
            self._keeper.kill()
        self._keeper.wait(_ANSWER_S)


class Switch:
    """Network switch of the hosts; a context manager that ends them with itself.

    Args:
        folder: Folder for `shared`, which all hosts have under the same path, and for each host's `/tmp`.

    Attributes:
        shared: Folder that all hosts share, like the NFS of a cluster.
        hosts: Hosts by name.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.shared = folder, folder / "shared"
        self.shared.mkdir(parents=True, exist_ok=True)
        self.hosts: dict[str, Host] = {}
        self._cables = 0

    def __enter__(self) -> Switch:
        self._namespaces = _Namespaces(("--net", "--mount", "--pid"), "ip link set lo up")
        self.ip("link add lan type bridge")
        self.ip("link set lan up")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for host in self.hosts.values():
            host.kill()
        self._namespaces.end()

    def ip(self, command: str) -> None:
        """Run `ip` in the namespace of the bridge."""
        subprocess.run(self._namespaces.inside(["--net"], ["ip", *command.split()]), check=True, timeout=_ANSWER_S)

    def add(self, name: str, address: str | None = None, *, tmp_mb: int | None = None) -> Host:
        """Start a host.

        Args:
            name: Name of the host, which resolves to 127.0.1.1 there, as on Debian.
            address: Address such as 10.77.0.2/24; None leaves the host unconnected.
            tmp_mb: Size of its `/tmp` in MB, on a disk of its own; None puts it on the machine's disk.
        """
        host = Host(self, name, address, tmp_mb=tmp_mb)
        self.hosts[name] = host
        host.boot()
        return host

    def plug(self, pid: int, device: str) -> str:
        """Connect a network namespace to the switch; return the name of the port."""
        self._cables += 1
        port = f"port{self._cables}"
        self.ip(f"link add {port} type veth peer name {device} netns {pid}")
        self.ip(f"link set {port} master lan")
        self.ip(f"link set {port} up")
        return port


class Host:
    """Host of the network; see `Switch.add`."""

    def __init__(self, switch: Switch, name: str, address: str | None, *, tmp_mb: int | None = None) -> None:
        self.name, self.address = name, (address or "").partition("/")[0]
        self._switch, self._cidr, self._tmp_mb = switch, address, tmp_mb
        self._tmp = Path()
        self._namespaces: _Namespaces | None = None

    @property
    def tmp(self) -> Path:
        """Path of its `/tmp` from outside; also while the host is off."""
        return self._tmp if self._namespaces is None else Path(f"/proc/{self._namespaces.pid}/root/tmp")

    @property
    def is_up(self) -> bool:
        return self._namespaces is not None

    def boot(self) -> None:
        """Start the host with an empty `/tmp`."""
        self._tmp = Path(tempfile.mkdtemp(prefix=f"{self.name}-", dir=self._switch.folder))
        self._namespaces = _Namespaces(_ALL, self._mounts())
        if self._cidr:
            self._port = self._switch.plug(self._namespaces.pid, "eth0")
            self.run(f"ip address add {self._cidr} dev eth0")
            self.run("ip link set eth0 up")

    def kill(self) -> None:
        """Kill all processes of the host and remove its network link, as by a power cut."""
        if self._namespaces is not None:
            self._namespaces.end()
            self._namespaces = None

    def link(self, *, up: bool) -> None:
        """Set the network link of the host up or down."""
        self._switch.ip(f"link set {self._port} {'up' if up else 'down'}")

    def join(self, other: Host, own: str, others: str) -> None:
        """Add a direct link to another host, with addresses of its own."""
        assert self._namespaces is not None
        assert other._namespaces is not None
        pids = self._namespaces.pid, other._namespaces.pid
        self._switch.ip(f"link add eth1 netns {pids[0]} type veth peer name eth1 netns {pids[1]}")
        for host, address in ((self, own), (other, others)):
            host.run(f"ip address add {address} dev eth1")
            host.run("ip link set eth1 up")

    def start(
        self,
        command: str | Sequence[str],
        environment: Mapping[str, str] | None = None,
        *,
        log: Path | None = None,
        user: str | None = None,
        folder: Path = ROOT,
    ) -> subprocess.Popen[bytes]:
        """Start a command on the host.

        Args:
            command: Program with its arguments; a string is split at its spaces.
            environment: Complete environment of the command; None takes that of this process.
            log: File for its output; None returns the output.
            user: Name of the user who runs it; None is root.
            folder: Working directory, a path on the host.
        """
        words = command.split() if isinstance(command, str) else list(command)
        as_user = ["setpriv", "--reuid", user, "--regid", user, "--init-groups"] if user else []
        out = log.open("ab") if log else subprocess.PIPE
        try:
            return subprocess.Popen(
                self._inside([*as_user, "env", "-C", str(folder), *words]),
                env=dict(os.environ if environment is None else environment),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        finally:
            if log:
                out.close()  # type: ignore[union-attr]

    def run(
        self,
        command: str | Sequence[str],
        environment: Mapping[str, str] | None = None,
        *,
        timeout_s: float = _ANSWER_S,
    ) -> str:
        """Run a command, check that it succeeds and return its output."""
        code, output = self.tried(command, environment, timeout_s=timeout_s)
        assert code == 0, f"{self.name}: {command}\n{output}"
        return output

    def tried(
        self,
        command: str | Sequence[str],
        environment: Mapping[str, str] | None = None,
        *,
        timeout_s: float = _ANSWER_S,
    ) -> tuple[int, str]:
        """Run a command; return its exit code and output."""
        with self.start(command, environment) as process:
            output, _ = process.communicate(timeout=timeout_s)
        return process.returncode, output.decode(errors="replace")

    def processes(self) -> list[psutil.Process]:
        """Return all processes of the host, with their ids on this machine."""
        if self._namespaces is None:
            return []
        here = Path(f"/proc/{self._namespaces.pid}/ns/pid").readlink()
        return [process for process in psutil.process_iter() if _pid_namespace(process.pid) == here][1:]

    def command_lines(self) -> Iterator[tuple[psutil.Process, str]]:
        """Yield all processes of the host with their command lines; without those that end meanwhile."""
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                yield process, " ".join(process.cmdline()).strip()

    def _inside(self, command: Sequence[str]) -> list[str]:
        assert self._namespaces is not None, f"{self.name} is off"
        return self._namespaces.inside(_ALL, command)

    def _mounts(self) -> str:
        """Return the script of the first process, which sets the host name and mounts folders of its own."""
        new = f"mount -t tmpfs -o size={self._tmp_mb}m tmpfs {self._tmp}" if self._tmp_mb else ":"
        kept = [
            path for path in _outermost([ROOT, Path(sys.prefix), self._switch.shared]) if path.is_relative_to("/tmp")
        ]
        places = {path: self._tmp / path.relative_to("/tmp") for path in kept}
        binds = [f"mkdir -p {place}; mount --bind {path} {place}" for path, place in places.items()]
        names = f"printf '127.0.0.1 localhost\\n127.0.1.1 {self.name}\\n' > {self._tmp}/.hosts"
        return "\n".join(
            [
                f"hostname {self.name}",
                "ip link set lo up",
                new,
                names,
                f"mount --bind {self._tmp}/.hosts /etc/hosts",
                *binds,
                f"chmod 1777 {self._tmp}",
                f"mount --rbind {self._tmp} /tmp",
                "mount -t tmpfs -o size=1g tmpfs /dev/shm",
            ]
        )


def _outermost(paths: Sequence[Path]) -> list[Path]:
    """Return the paths that lie in no other one."""
    return [
        path for path in dict.fromkeys(paths) if not any(path.is_relative_to(other) for other in paths if other != path)
    ]


def _pid_namespace(pid: int) -> Path | None:
    try:
        return Path(f"/proc/{pid}/ns/pid").readlink()
    except OSError:  # it has ended
        return None
