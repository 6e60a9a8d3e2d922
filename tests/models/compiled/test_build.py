"""Build of compiled kernels: once for all processes, with flags that compiler and processor take, or not at all."""

from __future__ import annotations

import logging
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from models.compiled import build
from tests.support.networks.tiny_kernel import tiny_kernel

COMPILER = next(filter(None, map(shutil.which, ("g++", "c++", "clang++"))), None)
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler")
BUILD = """
import pathlib, runpy, sys
module = runpy.run_path(sys.argv[1])
kernel = module["Kernel"](name="tiny", source=pathlib.Path(sys.argv[2]), headers=(), functions=("answer",))
assert module["compiled_library"](kernel).answer(None, None, None, 1) == 42
"""


def compiler_in(folder: Path, monkeypatch: pytest.MonkeyPatch, *, refuses: tuple[str, ...] = ()) -> Path:
    """Use a compiler that notes its flags for the processor and fails for some; return the file of the notes."""
    script, notes = folder / "noting-compiler", folder / "notes"
    refusal = f"case $word in {'|'.join(refuses)}) exit 1;; esac" if refuses else ":"
    noted = "case $word in -march=*|-mcpu=*) flags=$word;; esac"
    lines = ["#!/bin/sh", "flags=none", 'for word in "$@"; do', noted, "done", f"echo $flags >>{notes}"]
    lines += ['for word in "$@"; do', refusal, "done", f'exec {COMPILER} "$@"']
    script.write_text("\n".join(lines) + "\n", encoding="utf-8")
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    monkeypatch.setenv(build.SWITCH, "1")
    return notes


@needs_compiler
def test_processes_that_start_together_build_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = compiler_in(tmp_path, monkeypatch)
    kernel = tiny_kernel(tmp_path)
    command = [sys.executable, "-c", BUILD, build.__file__, str(kernel.source)]
    together = [subprocess.Popen(command, env=dict(os.environ)) for _ in range(3)]
    assert [process.wait() for process in together] == [0, 0, 0]
    assert len(notes.read_text(encoding="utf-8").split()) == 1


@pytest.mark.parametrize(
    ("machine", "flags"),
    [
        ("x86_64", ["-march=native"]),
        ("AMD64", ["-march=native"]),
        ("aarch64", ["-mcpu=native", "-march=native"]),
        ("arm64", ["-mcpu=native", "-march=native"]),
        ("ppc64le", ["-mcpu=native", "-march=native"]),
    ],
)
def test_flags_of_a_processor(machine: str, flags: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert build._processor_flags() == (*((flag,) for flag in flags), ())


@needs_compiler
@pytest.mark.parametrize(
    ("machine", "refuses", "tried"),
    [
        ("x86_64", (), ["-march=native"]),
        ("x86_64", ("-march=native",), ["-march=native", "none"]),
        ("arm64", ("-mcpu=native", "-march=native"), ["-mcpu=native", "-march=native", "none"]),
    ],
)
def test_flags_that_the_compiler_refuses_are_left_out(
    machine: str, refuses: tuple[str, ...], tried: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Build for a simulated machine, with a compiler that lacks some of the flags for its processors."""
    notes = compiler_in(tmp_path, monkeypatch, refuses=refuses)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    library = build.compiled_library(tiny_kernel(tmp_path))
    assert library is not None and library.answer(None, None, None, 1) == 42
    assert notes.read_text(encoding="utf-8").split() == tried


@needs_compiler
@pytest.mark.parametrize("probe", ["1", "(__builtin_trap(), 0)"], ids=["fails", "unknown instruction"])
def test_a_library_that_does_not_run_here_is_not_opened(
    probe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Compile a kernel whose probe ends its process; only the log at level DEBUG mentions it."""
    notes = compiler_in(tmp_path, monkeypatch)
    with caplog.at_level(logging.DEBUG, logger=build.__name__):
        assert build.compiled_library(tiny_kernel(tmp_path, probe=probe)) is None
    assert notes.read_text(encoding="utf-8").split()[-1] == "none"  # without flags for the processor, too
    assert [record.levelname for record in caplog.records] == ["DEBUG"]
    assert "the compiled kernel tiny is not there, plain PyTorch takes its place" in caplog.text


def test_without_a_compiler_there_is_no_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv(build.SWITCH, "1")
    with caplog.at_level(logging.DEBUG, logger=build.__name__):
        assert build.compiled_library(tiny_kernel(tmp_path)) is None
    assert [record.levelname for record in caplog.records] == ["DEBUG"]
