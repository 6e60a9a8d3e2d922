"""Output of a sweep whose reader goes away."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
from rich.console import Console
import typer
from orchestrator.lasting_output import lasting_output

console = Console()
with lasting_output():
    print("first", flush=True)
    assert input() == "go"
    for _ in range(3):
        console.print("a line of rich")
        typer.echo("a line of typer")
        print("a line of print", flush=True)
open(sys.argv[1], "w").write("done")
"""


def start(mark: Path, stdout: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(mark)],
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_work_goes_on_when_the_reader_of_a_pipe_has_quit(tmp_path: Path) -> None:
    read, write = os.pipe()
    program = start(tmp_path / "mark", write)
    os.close(write)
    with os.fdopen(read) as reader:
        assert reader.readline() == "first\n"
    _, said = program.communicate("go\n")
    assert (program.returncode, (tmp_path / "mark").read_text()) == (0, "done")
    assert said == "spatialsweep: nobody reads this output any more; the sweep continues. See spatialsweep status\n"


def test_the_work_goes_on_when_the_terminal_has_closed(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    program = start(tmp_path / "mark", theirs)
    os.close(theirs)
    assert os.read(ours, 100).startswith(b"first")
    os.close(ours)
    program.communicate("go\n")
    assert (program.returncode, (tmp_path / "mark").read_text()) == (0, "done")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_the_work_goes_on_when_the_disk_of_the_log_is_full(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        program = start(tmp_path / "mark", full.fileno())
        program.communicate("go\n")
    assert (tmp_path / "mark").read_text() == "done"
