"""Folder of a sweep: the files that a start reuses, refuses and removes, and the lock of its one driver."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from orchestrator.cli.main import app
from orchestrator.config import load_sweep
from orchestrator.errors import SweepNameError
from orchestrator.records.folder import driver_lock
from orchestrator.records.folder.sweep_folder import SweepFolder, existing_folder, new_folder
from orchestrator.sweep.run import run_sweep
from tests.support.sweeps.fake_sweeps import write_sweep

PLAN: dict[str, Any] = {"dataset": {"name": "digits"}, "model": {"name": "conv_resnet26_small"}, "trials": 1}
HOLDER = """
import sys, time
from pathlib import Path
from orchestrator.records.folder.sweep_folder import SweepFolder
with SweepFolder(Path(sys.argv[1])).driven():
    print("held", flush=True)
    sys.stdin.read()
"""


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fill(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


FOREIGN = [
    {"thesis.tex": "three years"},
    {"trials/trial-00000/best.pt": "weights", "journal.jsonl": '{"event": "sweep_sta'},
    {"lock": "the combination is 1234"},
    {"journal.jsonl": "dear diary"},
    {".hidden": ""},
]


@pytest.mark.parametrize("files", FOREIGN, ids=lambda files: next(iter(files)))
def test_a_folder_that_is_no_sweep_is_refused_and_stays_as_it_is(tmp_path: Path, files: dict[str, str]) -> None:
    fill(tmp_path / "x", files)
    before = contents(tmp_path)
    config = load_sweep({**PLAN, "name": "x", "runs_dir": str(tmp_path)})
    with pytest.raises(SweepNameError, match=r"x is a folder that is no sweep and is not empty \(.*\). Choose another"):
        run_sweep(config, address="127.0.0.1:9")
    assert contents(tmp_path) == before


def test_a_dry_run_reports_an_occupied_folder(tmp_path: Path) -> None:
    fill(tmp_path / "x", {"thesis.tex": "three years"})
    (tmp_path / "sweep.yaml").write_text("name: x\ndataset: {name: digits}\nmodel: {name: conv_resnet26_small}\n")
    command = ["run", str(tmp_path / "sweep.yaml"), "--runs-dir", str(tmp_path), "--dry-run"]
    assert "is no sweep and is not empty (thesis.tex)" in CliRunner().invoke(app, command).output.replace("\n", " ")


def test_a_file_or_link_is_refused_as_folder_of_a_sweep(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    with pytest.raises(SweepNameError, match="file is a file"):
        new_folder(tmp_path, "file")
    with pytest.raises(SweepNameError, match="nowhere is a link that leads nowhere"):
        new_folder(tmp_path, "nowhere")


@pytest.mark.parametrize("name", ["..", ".", "", "../other", "/etc", "a/b"])
def test_a_name_that_is_a_path_is_refused(tmp_path: Path, name: str) -> None:
    write_sweep(tmp_path, "other", [])
    for look in (new_folder, existing_folder):
        with pytest.raises(SweepNameError, match="is not a plain file name"):
            look(tmp_path / "runs", name)


def test_the_folder_of_all_results_is_answered_with_the_sweeps_in_it(tmp_path: Path) -> None:
    write_sweep(tmp_path, "one", [])
    write_sweep(tmp_path, "other", [])
    with pytest.raises(SweepNameError, match=rf"^{tmp_path} is a folder of sweeps\. Name one of them: one, other$"):
        existing_folder(tmp_path / "runs", str(tmp_path))


def test_a_failed_start_removes_only_its_own_files(tmp_path: Path) -> None:
    config = load_sweep({**PLAN, "name": "x", "runs_dir": str(tmp_path)})
    with pytest.raises(Exception, match="no Ray cluster answers"):
        run_sweep(config, address="127.0.0.1:9")
    assert not (tmp_path / "x").exists()

    folder = SweepFolder(tmp_path / "x")
    with pytest.raises(RuntimeError, match="stop"), folder.driven(new=True):
        folder.journal.touch()
        (folder.path / "note.txt").write_text("put here meanwhile")
        raise RuntimeError("stop")
    assert contents(tmp_path / "x") == {"note.txt": b"put here meanwhile"}


def test_the_folder_of_a_failed_start_is_reused(tmp_path: Path) -> None:
    fill(tmp_path / "x", {"lock": "process 1 on elsewhere", "journal.jsonl": ""})
    for name in ("scratch", "sessions", "trials"):
        (tmp_path / "x" / name).mkdir()
    with new_folder(tmp_path, "x").driven(new=True):
        assert SweepFolder(tmp_path / "x").is_driven
    assert sorted(path.name for path in (tmp_path / "x").iterdir()) == [
        "journal.jsonl",
        "lock",
        "scratch",
        "sessions",
        "trials",
    ]


def test_a_lock_that_is_a_link_harms_no_file(tmp_path: Path) -> None:
    folder = SweepFolder(write_sweep(tmp_path, "s", []))
    (tmp_path / "key").write_text("secret")
    (folder.path / "lock").symlink_to(tmp_path / "key")
    with pytest.raises(SweepNameError, match="lock cannot be written"), folder.driven():
        pass
    assert (tmp_path / "key").read_text() == "secret"


def test_a_sweep_started_meanwhile_is_not_started_again(tmp_path: Path) -> None:
    folder = new_folder(tmp_path, "s")
    write_sweep(tmp_path, "s", [])
    with pytest.raises(SweepNameError, match="exists already"), folder.driven(new=True):
        pass
    with pytest.raises(SweepNameError, match="no sweep 'gone'"), SweepFolder(tmp_path / "gone").driven():
        pass


def test_a_running_sweep_is_not_offered_to_be_resumed(tmp_path: Path) -> None:
    folder = SweepFolder(write_sweep(tmp_path, "s", []))
    with folder.driven(), pytest.raises(SweepNameError, match=r"'s' is running, in .*`spatialsweep status s`"):
        new_folder(tmp_path, "s")
    with pytest.raises(SweepNameError, match="'s' exists already"):
        new_folder(tmp_path, "s")


def test_scratch_that_is_a_link_keeps_what_it_leads_to(tmp_path: Path) -> None:
    folder = SweepFolder(write_sweep(tmp_path, "s", []))
    fill(tmp_path / "mine", {"thesis.tex": "three years"})
    folder.scratch.symlink_to(tmp_path / "mine", target_is_directory=True)
    folder.clear_scratch()
    assert contents(tmp_path / "mine") == {"thesis.tex": b"three years"}


def test_a_second_process_is_refused_by_the_name_of_the_first(tmp_path: Path) -> None:
    folder = SweepFolder(write_sweep(tmp_path, "s", []))
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert folder.is_driven
        with pytest.raises(SweepNameError, match=rf"is being run by process {holder.pid} on "), folder.driven():
            pass
    finally:
        holder.communicate()
    assert not folder.is_driven
    with folder.driven():
        assert folder.is_driven


def test_a_status_query_during_a_start_does_not_block_the_driver(tmp_path: Path) -> None:
    folder = SweepFolder(write_sweep(tmp_path, "s", []))
    with folder.driven():
        pass
    look = os.open(folder.path / "lock", os.O_RDONLY)
    fcntl.flock(look, fcntl.LOCK_SH)  # as `spatialsweep status` holds it
    ended: list[bool] = []

    def end() -> None:
        ended.append(True)
        os.close(look)

    ends = threading.Timer(0.3, end)
    ends.start()
    with folder.driven():
        assert ended
    ends.join()


@pytest.fixture(params=[errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def lockless(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Replace the file system by one without locks."""

    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(driver_lock.fcntl, "flock", refuse)
    return int(request.param)


@pytest.mark.usefixtures("lockless")
def test_storage_without_locks_works_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = SweepFolder(write_sweep(tmp_path, "s", []))
    assert not folder.is_driven
    with caplog.at_level(logging.WARNING), folder.driven():
        assert folder.is_driven
    assert "this storage has no locks" in caplog.text
    assert not folder.is_driven


@pytest.mark.usefixtures("lockless")
def test_without_locks_the_file_names_a_running_driver(tmp_path: Path) -> None:
    folder = SweepFolder(write_sweep(tmp_path, "s", []))
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        (folder.path / "lock").write_text(f"process {other.pid} on {os.uname().nodename}")
        assert folder.is_driven
        with pytest.raises(SweepNameError, match=f"is being run by process {other.pid}"), folder.driven():
            pass
        other.communicate(b"\n")
    assert not folder.is_driven
    with folder.driven():
        pass
    (folder.path / "lock").write_text("process 1 on another-host")
    assert folder.is_driven  # nobody here can tell
