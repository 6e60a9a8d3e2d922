"""Private Ray instance of one process: on loopback only, with a token and a folder of its own.

By default Ray listens on all addresses of a machine, writes the token to `~/.ray/auth_token` readable for all users,
and puts its sockets, logs and spilled objects below `/tmp/ray`, which all users can write.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import ray

from orchestrator.errors import ClusterError, RayLostError, SpatialSweepError, first_line
from orchestrator.runtime.auth_settings import MODE, PATH, TOKEN
from orchestrator.runtime.cluster_token import token_settings
from orchestrator.runtime.early.early_start import EarlyInstance
from orchestrator.runtime.ray_private.core import loopback_only
from orchestrator.runtime.ray_private.instance import without_helpers

logger = logging.getLogger(__name__)

_BITS = 256
_FOLDER = "ray"
# Ray makes its own folder writable for all users, so it is put into one that others cannot enter.
_INNER = "r"
_SOCKET = "r/session_2026-01-01_00-00-00_000000_{pid}/sockets/plasma_store"
_SOCKET_BYTES = 107 if sys.platform.startswith("linux") else 103
_RANDOM_CHARACTERS = 8


def own_token(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the authentication settings of a private instance; values set by the user stay.

    Args:
        environ: Environment of this process.
    """
    mode = environ.get(MODE)
    if mode is not None and mode.lower() != "token":
        logger.warning(
            "%s is '%s': anyone who can log in on this machine can run code as you while Ray runs.", MODE, mode
        )
        return {}
    if environ.get(TOKEN) or environ.get(PATH):
        return {MODE: "token"}
    return {MODE: "token", TOKEN: secrets.token_hex(_BITS // 8)}


@contextmanager
def private_instance(*, verbose: bool, level: int) -> Iterator[None]:
    """Start an instance for this process; the caller shuts it down before the context ends.

    Args:
        verbose: Whether to print the output of its workers.
        level: Logging level of Ray's own messages.

    Raises:
        ClusterError: It does not start, or no folder for its files can be made.
    """
    with private_folder(os.environ) as folder, token_settings(own_token(os.environ)):
        init_private(folder, verbose=verbose, level=level)
        yield


@contextmanager
def early_instance(found: EarlyInstance, *, verbose: bool, level: int, is_lost: Callable[[], bool]) -> Iterator[None]:
    """Connect to an instance that a process has started for this one; the caller disconnects before the context ends.

    Args:
        found: Instance that has started.
        verbose: Whether to print the output of its workers.
        level: Logging level of Ray's own messages.
        is_lost: Function that returns whether Ray has ended under the session. What is left of the instance then ends
            with this process, whose threads still wait for answers of it.

    Raises:
        ClusterError: It does not answer.
    """
    found.use()
    try:
        with token_settings(found.token):
            with _started(), loopback_only():
                ray.init(address=found.address, log_to_driver=verbose, logging_level=level)
            yield
    except Exception as error:
        if _asks_for_logs(error):
            error.add_note(f"Ray's logs: {found.logs}")
            found.keep_folder()
        raise
    finally:
        if not is_lost():
            found.close()


def init_private(folder: Path, *, verbose: bool, level: int) -> None:
    """Start the processes of an instance and connect to it.

    Args:
        folder: Folder of the instance.
        verbose: Whether to print the output of its workers.
        level: Logging level of Ray's own messages.

    Raises:
        ClusterError: It does not start.
    """
    with _started(), loopback_only(), without_helpers(logs=verbose):
        ray.init(
            address="local",
            include_dashboard=False,
            log_to_driver=verbose,
            logging_level=level,
            _temp_dir=str(folder / _INNER),
        )


@contextmanager
def _started() -> Iterator[None]:
    try:
        yield
    except (ConnectionError, OSError, ValueError, RuntimeError) as error:
        raise ClusterError(f"Ray does not start on this machine: {first_line(error)}") from error


@contextmanager
def private_folder(environ: Mapping[str, str]) -> Iterator[Path]:
    """Make a folder for Ray that only this user can enter; remove it afterwards unless its logs are needed.

    Args:
        environ: Environment of this process; the folder is made in `RAY_TMPDIR`, `TMPDIR` or `/tmp`, the first of
            them whose path is short enough for Ray's sockets.

    Raises:
        ClusterError: None of them can be written.
    """
    folder = new_folder(environ)
    try:
        yield folder
    except Exception as error:
        if _asks_for_logs(error):
            error.add_note(f"Ray's logs: {logs_folder(folder)}")
            raise
        shutil.rmtree(folder, ignore_errors=True)
        raise
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)


def logs_folder(folder: Path) -> Path:
    """Return where Ray's logs are in the folder of an instance."""
    return folder / _INNER / "session_latest" / "logs"


def new_folder(environ: Mapping[str, str]) -> Path:
    """Make a folder for Ray that only this user can enter.

    Args:
        environ: Environment of this process; see `private_folder`.

    Raises:
        ClusterError: None can be made.
    """
    faults: list[str] = []
    for name, parent in _parents(environ):
        over = _bytes_too_long(parent)
        if over > 0:
            faults.append(f"{name} is {over} bytes too long for Ray's sockets")
            continue
        try:
            Path(parent).mkdir(parents=True, exist_ok=True)  # as Ray does
            folder = Path(tempfile.mkdtemp(prefix=_FOLDER, dir=parent))
        except OSError as error:
            faults.append(f"{name}: {error.strerror or error}: {parent}")
            continue
        if faults:
            logger.warning("Ray's files go to %s: %s.", parent, "; ".join(faults))
        return folder
    raise ClusterError(f"Ray has no place for its files ({'; '.join(faults)}). Set RAY_TMPDIR to a short path.")


def _asks_for_logs(error: Exception) -> bool:
    """Return whether an error needs Ray's logs; one of our own does not."""
    foreign = not isinstance(error, SpatialSweepError)
    return foreign or isinstance(error, RayLostError) or isinstance(error.__cause__, Exception)


def _parents(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for name in ("RAY_TMPDIR", "TMPDIR"):
        if environ.get(name):
            yield name, str(Path(environ[name]).absolute())
    yield "/tmp", "/tmp"  # noqa: S108 - the folder made there has a random name and is for this user alone


def _bytes_too_long(parent: str) -> int:
    folder = f"{_FOLDER}{'x' * _RANDOM_CHARACTERS}"
    return len(os.fsencode(f"{parent}/{folder}/{_SOCKET.format(pid=os.getpid())}")) - _SOCKET_BYTES
