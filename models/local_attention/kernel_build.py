"""Build of the compiled attention on first use; None wherever it cannot be built.

One shared library without torch's headers, compiled in a few seconds by the C++ compiler of the machine, once per
processor model, compiler and source, into a cache folder that no other user can change. Processes that start together
wait for the one that builds, for a limited time. A failure costs speed, never the training.
"""

import atexit
import contextlib
import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

__all__ = ["SWITCH", "attention_library"]

SWITCH = "SPATIALSWEEP_KERNELS"  # 0 turns compiled kernels off

_SOURCES = ("attention_kernel.cpp", "attention_kernel.h", "attention_kernel_backward.h")
_FLAGS = ("-O3", "-std=c++17", "-shared", "-fPIC", "-pthread")
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_BUILD_TIMEOUT_S = 60.0
_LOCK_TIMEOUT_S = 70.0
_FUNCTIONS = tuple(f"spatialsweep_{step}_{dtype}" for step in ("forward", "backward") for dtype in ("f32", "f64"))

_log = logging.getLogger(__name__)
_one_at_a_time = threading.Lock()


def attention_library() -> ctypes.CDLL | None:
    """Return the compiled attention, built if need be; None when it is switched off or cannot be built."""
    if os.environ.get(SWITCH, "1").strip().lower() in {"0", "false", "off", "no"}:
        return None
    with _one_at_a_time:
        return _open_or_build()


@functools.cache
def _open_or_build() -> ctypes.CDLL | None:
    try:
        return _declared(ctypes.CDLL(str(_library_path())))
    except FileNotFoundError as error:
        _log.info("local attention runs without its compiled kernel: %s", error)
    except (OSError, subprocess.SubprocessError, AttributeError) as error:
        output = getattr(error, "stderr", None) or ""
        _log.warning("local attention runs without its compiled kernel, more slowly: %s %s", error, output)
    return None


def _declared(library: ctypes.CDLL) -> ctypes.CDLL:
    for name in _FUNCTIONS:
        function = getattr(library, name)
        function.restype = ctypes.c_int
        function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    return library


def _library_path() -> Path:
    compiler = _compiler()
    folder = Path(__file__).parent
    digest = hashlib.sha256(f"{_processor()} {compiler} {Path(compiler).stat().st_mtime_ns} {_FLAGS}".encode())
    for name in _SOURCES:
        digest.update((folder / name).read_bytes())
    cache = _cache_folder()
    library = cache / f"attention-{digest.hexdigest()[:24]}.so"
    if not _is_built(library):
        with _locked(library.with_suffix(".lock")):
            if not _is_built(library):
                _build(compiler, folder / _SOURCES[0], library)
    return library


def _is_built(library: Path) -> bool:
    """Return whether this user built the library and no other user can modify it; otherwise it is rebuilt."""
    return os.path.lexists(library) and library.is_file() and _is_private(library)


def _compiler() -> str:
    for name in (os.environ.get("CXX", ""), "g++", "c++", "clang++"):
        found = shutil.which(name) if name else None
        if found:
            return found
    raise FileNotFoundError("no C++ compiler on the path")


def _processor() -> str:
    """Describe the processor and system the library depends on: a home folder may be shared by different machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    wanted = ("model name", "flags", "CPU part", "Features")
    described = sorted({line for line in lines if line.startswith(wanted)})
    return " ".join([platform.system(), platform.machine(), platform.processor(), *described])


def _cache_folder() -> Path:
    """Return the first folder that no other user can change: the cache, temporary files, or a new folder."""
    folders = [f"{os.environ.get('XDG_CACHE_HOME') or '~/.cache'}/spatialsweep/kernels"]
    if hasattr(os, "getuid"):
        folders.append(f"{tempfile.gettempdir()}/spatialsweep-kernels-{os.getuid()}")
    for folder in folders:
        with contextlib.suppress(OSError, RuntimeError):  # a RuntimeError: this user has no home
            path = Path(folder).expanduser()
            if _make_private(path):
                return path
    return _folder_of_process()


def _folder_of_process() -> Path:
    """Make a folder that is removed when the process ends.

    Raises:
        PermissionError: Other users could exchange it.
    """
    folder = Path(tempfile.mkdtemp(prefix="spatialsweep-kernels-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    if not _is_private(folder):
        raise PermissionError(f"every folder for it can be changed by other users, {folder.parent} too")
    return folder


def _make_private(folder: Path) -> bool:
    """Make a folder and its parents, and return whether this user alone can write to it."""
    missing = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
    for path in reversed(missing):
        path.mkdir(mode=0o700, exist_ok=True)
    return _is_private(folder) and os.access(folder, os.W_OK | os.X_OK)


def _is_private(path: Path) -> bool:
    """Return whether no other user can modify or replace a file or folder.

    It is this user's and no link; all above it is this user's or root's, and where others may write there, it is
    sticky as `/tmp` is, so that users cannot rename files of others.
    """
    if not hasattr(os, "getuid"):
        return True
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & _OTHERS_WRITE:
        return False
    above = {*path.absolute().parents, *path.resolve().parents}  # a link above is as safe as the folder it lies in
    return all(_is_kept(parent.lstat()) for parent in above)


def _is_kept(above: os.stat_result) -> bool:
    if above.st_uid not in (0, os.getuid()):
        return False
    return stat.S_ISLNK(above.st_mode) or not above.st_mode & _OTHERS_WRITE or bool(above.st_mode & stat.S_ISVTX)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of a build; continue without where the file system has none or its holder takes too long."""
    with path.open("w") as file:
        deadline = time.monotonic() + _LOCK_TIMEOUT_S
        with contextlib.suppress(ImportError):
            import fcntl

            while time.monotonic() < deadline:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    time.sleep(0.05)
                except OSError:
                    break
        yield


def _build(compiler: str, source: Path, library: Path) -> None:
    """Compile next to the library and move it into place, so that no process opens half a file."""
    with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
        made = Path(scratch) / library.name
        command = [compiler, *_FLAGS, "-w", "-march=native", str(source), "-o", str(made)]
        try:
            _run(command)
        except subprocess.CalledProcessError:  # some compilers reject -march=native
            _run([word for word in command if word != "-march=native"])
        made.replace(library)


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=_BUILD_TIMEOUT_S)  # noqa: S603
