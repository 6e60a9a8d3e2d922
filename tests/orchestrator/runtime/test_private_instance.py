"""Private Ray instance: addresses, token, folder, and its removal."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import grpc
import psutil
import pytest
import ray

from orchestrator.errors import ClusterError, RayLostError
from orchestrator.runtime.auth_settings import known_token
from orchestrator.runtime.cluster_token import settings_to_join, token_settings
from orchestrator.runtime.private_instance import own_token, private_folder
from orchestrator.runtime.ray_session import ray_session

TOKEN = {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}
# The instance is on loopback, which `ray.init` would otherwise replace by this machine's outward address.
JOIN = """
import sys
import ray
ray.init(address=sys.argv[1], log_to_driver=False)
print("joined", ray.get(ray.remote(lambda: 7).remote()))
"""


@pytest.fixture
def settings_read_again() -> Iterator[None]:
    """Have Ray read its settings again once a test has restored the environment."""
    with token_settings({}):
        yield


@pytest.fixture
def home(tmp_path: Path, settings_read_again: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty home folder, in an environment without tokens and temporary folders."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (*TOKEN, "RAY_ADDRESS", "RAY_TMPDIR", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def short() -> Iterator[Path]:
    """Return a folder whose path is short enough for sockets below it."""
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as folder:
        yield Path(folder)


def test_every_instance_has_a_token_of_its_own() -> None:
    first, second = own_token({}), own_token({})
    assert first["RAY_AUTH_MODE"] == "token"
    assert re.fullmatch(r"[0-9a-f]{64}", first["RAY_AUTH_TOKEN"])
    assert first["RAY_AUTH_TOKEN"] != second["RAY_AUTH_TOKEN"]


def test_a_token_of_the_user_stays_and_a_disabled_one_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    assert own_token({"RAY_AUTH_TOKEN": "mine"}) == {"RAY_AUTH_MODE": "token"}
    assert own_token({"RAY_AUTH_TOKEN_PATH": "/mine"}) == {"RAY_AUTH_MODE": "token"}
    assert not caplog.records
    assert own_token({"RAY_AUTH_MODE": "disabled"}) == {}
    assert "can run code as you" in caplog.text


def test_the_token_is_found_where_ray_finds_it(home: Path) -> None:
    assert known_token({}) == ("~/.ray/auth_token", None)
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text("of the home\n")
    (home / "named").write_text("of the path\n")
    assert known_token({}) == ("~/.ray/auth_token", "of the home")
    named = {"RAY_AUTH_TOKEN_PATH": str(home / "named")}
    assert known_token(named) == ("RAY_AUTH_TOKEN_PATH", "of the path")
    assert known_token({**named, "RAY_AUTH_TOKEN": "given"}) == ("RAY_AUTH_TOKEN", "given")
    with pytest.raises(ClusterError, match=r"RAY_AUTH_TOKEN_PATH: '.*missing' cannot be read: .* Set it to"):
        known_token({"RAY_AUTH_TOKEN_PATH": str(home / "missing")})


def test_the_folder_is_for_this_user_alone_and_is_removed(short: Path) -> None:
    with private_folder({"TMPDIR": str(short)}) as folder:
        assert folder.parent == short
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "log").write_text("text")
    assert not folder.exists()


def test_a_path_too_long_for_sockets_is_replaced(short: Path, caplog: pytest.LogCaptureFixture) -> None:
    long = short / ("x" * 100)
    long.mkdir()
    with private_folder({"TMPDIR": str(long)}) as folder:
        assert folder.parent == Path("/tmp")
        assert len(f"{folder}/r/session_2026-11-29_02-06-09_123456_1234567/sockets/plasma_store") < 107
    assert re.search(r"Ray's files go to /tmp: TMPDIR is \d+ bytes too long for Ray's sockets\.", caplog.text)
    with private_folder({"RAY_TMPDIR": str(short / "new"), "TMPDIR": str(long)}) as folder:
        assert folder.parent == short / "new"


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        (ValueError("not of ours"), True),
        (RayLostError("Ray has ended"), True),
        (ClusterError("a trial needs 9 workers"), False),
        (KeyboardInterrupt(), False),
    ],
)
def test_logs_are_kept_for_errors_that_need_them(short: Path, error: BaseException, kept: bool) -> None:
    with pytest.raises(type(error)) as raised, private_folder({"TMPDIR": str(short)}) as folder:
        raise error
    assert folder.exists() == kept
    notes = getattr(raised.value, "__notes__", [])
    assert notes == ([f"Ray's logs: {folder}/r/session_latest/logs"] if kept else [])


def test_a_file_in_the_place_of_the_folder_is_warned_of(short: Path, caplog: pytest.LogCaptureFixture) -> None:
    (short / "taken").write_text("")
    with private_folder({"RAY_TMPDIR": str(short / "taken")}) as folder:
        assert folder.parent == Path("/tmp")
    assert f"RAY_TMPDIR: File exists: {short / 'taken'}" in caplog.text


def listening() -> Iterator[tuple[str, str, int]]:
    """Yield program, address and port of every socket on which this process or a child process listens."""
    own = psutil.Process()
    for process in (own, *own.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            for connection in process.net_connections("inet"):
                if connection.status == psutil.CONN_LISTEN:
                    yield process.name(), connection.laddr.ip.removeprefix("::ffff:"), connection.laddr.port


def answers(port: int) -> bool:
    """Return whether Ray's control service answers a request without a token."""
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=(("grpc.enable_http_proxy", 0),)) as channel:
        try:
            channel.unary_unary("/ray.rpc.NodeInfoGcsService/GetClusterId")(b"", timeout=2)
        except grpc.RpcError:
            return False
    return True


def join(address: str, token: str | None) -> subprocess.CompletedProcess[str]:
    """Connect from another process, as users of Ray do."""
    environ = {name: value for name, value in os.environ.items() if name not in TOKEN}
    environ |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_NUM_REDIS_GET_RETRIES": "1"}
    environ |= {} if token is None else {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    command = [sys.executable, "-c", JOIN, address]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=280)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_private_instance_admits_no_other_user(home: Path) -> None:
    before = set(listening())
    with ray_session():
        address = ray.get_runtime_context().gcs_address
        ray.get(ray.remote(lambda: 7).remote())  # so that a worker listens too
        token, folder = os.environ["RAY_AUTH_TOKEN"], Path(ray._private.worker._global_node.get_session_dir_path())
        found = set(listening()) - before
        assert {"gcs_server", "raylet"} <= {name for name, _, _ in found}
        assert {host for _, host, _ in found} == {"127.0.0.1"}
        assert [each for each in found if answers(each[2])] == []
        assert folder.parents[1].stat().st_mode & 0o777 == 0o700

        assert join(address, token).stdout == "joined 7\n"
        for wrong in (None, "0" * 64):
            refused = join(address, wrong)
            assert refused.returncode != 0
            assert "InvalidAuthToken" in refused.stderr
            assert "joined" not in refused.stdout

        with pytest.raises(ClusterError, match=f"'{address}' requires a token, and none is set here. Set RAY_AUTH_TOK"):
            settings_to_join(address, {})
        with pytest.raises(ClusterError, match=r"refuses the token of RAY_AUTH_TOKEN\."):
            settings_to_join(address, {"RAY_AUTH_TOKEN": "0" * 64})
        with pytest.raises(ClusterError, match=r"RAY_AUTH_MODE is 'disabled' here\. Unset it"):
            settings_to_join(address, {"RAY_AUTH_TOKEN": token, "RAY_AUTH_MODE": "disabled"})
        assert settings_to_join(address, {"RAY_AUTH_TOKEN": token}) == {"RAY_AUTH_MODE": "token"}
        done = run_on(address)
    assert done.returncode == 1
    assert re.fullmatch(
        r"spatialsweep: the cluster at '\S+' requires a token, and none is set here\. .*\n", done.stderr
    )
    assert not TOKEN & set(os.environ)
    assert list(home.glob(".ray")) == []
    assert not folder.exists()


def run_on(address: str) -> subprocess.CompletedProcess[str]:
    """Run the command line on a cluster, as a user without its token."""
    environ = {name: value for name, value in os.environ.items() if name not in TOKEN}
    command = [sys.executable, "-m", "orchestrator", "run", "sweeps/digits.yaml", "--address", address]
    return subprocess.run(
        [*command, "--runs-dir", environ["HOME"]],
        env=environ | {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"},
        cwd=Path(__file__).resolve().parents[3],
        capture_output=True,
        text=True,
        timeout=280,
    )
