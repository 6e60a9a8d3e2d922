"""Build of compiled kernels on first use; None wherever one cannot be built.

A kernel is a shared library without torch's headers, compiled in a few seconds by the C++ compiler of the machine, once
per processor model, compiler and source, into a cache folder that no other user can change. Processes that start
together wait for the one that builds, for a limited time. A failure costs speed, never the training, and only the log
at level DEBUG has a line about it.
"""

import atexit
import contextlib
import ctypes
import dataclasses
import functools
import hashlib
import logging
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

__all__ = ["SWITCH", "VECTORS", "Kernel", "compiled_library", "kernels_enabled"]

SWITCH = "SPATIALSWEEP_KERNELS"  # 0 turns all kernels off
VECTORS = Path(__file__).parent / "vectors.h"
"""Header of kernels: vectors, threads, errors."""

_FLAGS = ("-O3", "-std=c++17", "-shared", "-fPIC", "-pthread")
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_BUILD_TIMEOUT_S = 60.0
_LOCK_TIMEOUT_S = 70.0
_PROBE = "import ctypes, sys; sys.exit(ctypes.CDLL(sys.argv[1]).spatialsweep_probe())"

_log = logging.getLogger(__name__)
_one_at_a_time = threading.Lock()


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Kernel:
    """Shared library and what it is compiled from.

    Args:
        name: Name in files and messages.
        source: File to be compiled. It defines `int spatialsweep_probe()`, which runs the functions on a tiny problem
            and returns 0.
        headers: Files that it includes, from its folder or from that of this module.
        functions: Functions of the library, which take sizes, maps, results and a number of threads.
    """

    name: str
    source: Path
    headers: tuple[Path, ...]
    functions: tuple[str, ...]


def kernels_enabled() -> bool:
    """Return whether kernels may be used, those compiled for CPUs and those for GPUs."""
    return os.environ.get(SWITCH, "1").strip().lower() not in {"0", "false", "off", "no"}


def compiled_library(kernel: Kernel) -> ctypes.CDLL | None:
    """Return the library of a kernel, built if need be; None when it is switched off or cannot be built."""
    if not kernels_enabled():
        return None
    with _one_at_a_time:
        return _open_or_build(kernel)


@functools.cache
def _open_or_build(kernel: Kernel) -> ctypes.CDLL | None:
    try:
        return _declared(ctypes.CDLL(str(_library_path(kernel))), kernel)
    except (OSError, subprocess.SubprocessError, AttributeError) as error:
        output = getattr(error, "stderr", None) or ""
        _log.debug(
            "the compiled kernel %s is not there, plain PyTorch takes its place: %s %s", kernel.name, error, output
        )
    return None


def _declared(library: ctypes.CDLL, kernel: Kernel) -> ctypes.CDLL:
    for name in kernel.functions:
        function = getattr(library, name)
        function.restype = ctypes.c_int
        function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    return library


def _library_path(kernel: Kernel) -> Path:
    compiler = _compiler()
    digest = hashlib.sha256(f"{_processor()} {compiler} {Path(compiler).stat().st_mtime_ns} {_FLAGS}".encode())
    for path in (kernel.source, *kernel.headers):
        digest.update(path.read_bytes())
    cache = _cache_folder()
    library = cache / f"{kernel.name}-{digest.hexdigest()[:24]}.so"
    if not _is_built(library):
        with _locked(library.with_suffix(".lock")):
            if not _is_built(library):
                _build(compiler, kernel.source, library)
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
        lines = [f"model name: that of {platform.node()}"]
    wanted = ("model name", "flags", "CPU part", "Features")
    described = sorted({line for line in lines if line.startswith(wanted)})
    return " ".join([platform.system(), platform.machine(), platform.processor(), *described])


def _processor_flags() -> tuple[tuple[str, ...], ...]:
    """Return flags for code that suits this processor, the best first, and last none, which every compiler takes.

    On x86 a compiler knows the processor by -march; on others some take that flag, some -mcpu and some neither.
    """
    if platform.machine().lower() in {"x86_64", "amd64", "i386", "i686"}:
        return (("-march=native",), ())
    return (("-mcpu=native",), ("-march=native",), ())


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
    """Compile next to the library and move it into place, so that no process opens half a file.

    A library that this processor cannot run, as a virtual one may lack what it claims to have, is compiled again with
    fewer flags.
    """
    includes = ["-w", f"-I{Path(__file__).parent}"]
    with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
        made = Path(scratch) / library.name
        *choices, last = _processor_flags()
        for flags in choices:
            with contextlib.suppress(subprocess.CalledProcessError):
                _run([compiler, *_FLAGS, *flags, *includes, str(source), "-o", str(made)])
                _probe(made)
                made.replace(library)
                return
        _run([compiler, *_FLAGS, *last, *includes, str(source), "-o", str(made)])
        _probe(made)
        made.replace(library)


def _probe(library: Path) -> None:
    """Run the library in a process of its own, which an instruction unknown to the processor would end.

    Raises:
        CalledProcessError: It does not run here.
    """
    if sys.executable:
        _run([sys.executable, "-I", "-S", "-c", _PROBE, str(library)])


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=_BUILD_TIMEOUT_S)  # noqa: S603
