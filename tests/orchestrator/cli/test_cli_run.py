"""Bad input on the command line."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from orchestrator.cli import run
from orchestrator.cli.main import app
from orchestrator.records.ledger import TrialStatus
from tests.support.sweeps.command_line import run_command
from tests.support.sweeps.fake_sweeps import write_sweep
from tests.support.waiting import wait_for

ROOT = Path(__file__).resolve().parents[3]
DIGITS = ROOT / "sweeps" / "digits.yaml"
COMMAND = [sys.executable, "-m", "orchestrator"]


def spatialsweep(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    own = os.environ | environ
    return subprocess.run([*COMMAND, *arguments], cwd=ROOT, env=own, capture_output=True, text=True, timeout=240)


def test_version() -> None:
    done = spatialsweep("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("spatialsweep 0.")


def test_bad_input_is_listed_whole_and_leaves_nothing(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as short:  # for Ray's sockets
        done = spatialsweep(
            "run", str(DIGITS), "--runs-dir", str(tmp_path / "runs"), "--set", "trials=many",
            "--set", "training.lrr=0.1", "--set", "search.model.choices=[adaptive_resnet26_smal]",
            "--set", "dataset.name=digit", TMPDIR=short, RAY_TMPDIR=short,
        )  # fmt: skip
        wait_for(lambda: not any(Path(short).glob("fork*")))  # the fork server ends by itself
        assert list(Path(short).iterdir()) == []  # the instance of Ray has ended with the command
    assert done.returncode == 2
    assert done.stdout == ""
    assert "digits.yaml: trials: got 'many'" in done.stderr
    assert "digits.yaml: training.lrr: unknown setting. Did you mean 'lr'?" in done.stderr
    assert "unknown 'adaptive_resnet26_smal'. Did you mean 'adaptive_resnet26_small'?" in done.stderr
    assert "digits.yaml: dataset.name: unknown 'digit'. Did you mean 'digits'?" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_missing_file_and_a_mistyped_option_are_plain_errors() -> None:
    missing = spatialsweep("run", "sweeps/digit.yaml")
    assert missing.returncode == 2
    assert "no such file" in missing.stderr
    assert "digits.yaml" in missing.stderr
    mistyped = spatialsweep("run", "--trails", "3", str(DIGITS))
    assert mistyped.returncode == 2
    assert "No such option" in mistyped.stderr


def test_unknown_choices_and_names_that_are_too_long_are_bad_input(tmp_path: Path) -> None:
    long = "a" * 300
    for arguments, message in [
        (("export", "digits", "--format", "onx"), "--format: got 'onx'. Did you mean 'onnx'?"),
        (
            ("export", "digits", "--format", "onnx", "--output", "digits.pt2"),
            "--output digits.pt2: a file of --format onnx ends in .onnx",
        ),
        (("train", "lsas_cifar1"), "no recipe is called 'lsas_cifar1'. Did you mean 'lsas_cifar1"),
        (("status", long, "--runs-dir", str(tmp_path)), "aaa...: File name too long"),
        (("eval", str(tmp_path / "no.pt"), "--dataset", "digits"), "no.pt"),
    ]:
        code, output = run_command(*arguments)
        assert (code, message in output, "Traceback" in output) == (2, True, False), output


@pytest.mark.skipif(not Path("/sys").is_dir(), reason="needs a folder in which nobody creates files")
def test_a_file_that_cannot_be_written_is_no_traceback(tmp_path: Path) -> None:
    write_sweep(tmp_path, "s", [(TrialStatus.FINISHED, [0.5])])
    code, output = run_command("report", "s", "--runs-dir", str(tmp_path), "--output", "/sys/report.html")
    assert (code, "Traceback" in output) == (1, False), output
    assert output.startswith("spatialsweep: /sys/")


def test_an_address_where_no_cluster_answers_is_a_plain_error(tmp_path: Path) -> None:
    done = spatialsweep("run", str(DIGITS), "--runs-dir", str(tmp_path / "runs"), "--address", "127.0.0.1:1")
    assert done.returncode == 1
    assert "no Ray cluster answers at '127.0.0.1:1'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_command_without_an_output_ends_as_any_other() -> None:
    command = f"{sys.executable} -m orchestrator --version >&-"
    done = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stderr) == (0, "")


ENDING = """
import atexit
import sys

from orchestrator import __main__
from orchestrator.cli import main


class Held:
    def __del__(self):
        print("torn down")


def command():
    atexit.register(print, "cleaned up")
    print("done", end="; ")
    sys.exit(3)


sys.held, main.main = Held(), command
__main__.run()
"""


def test_a_command_ends_after_the_cleanup_and_without_a_teardown() -> None:
    done = subprocess.run([sys.executable, "-c", ENDING], cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stdout, done.stderr) == (3, "done; cleaned up\n", "")


@pytest.mark.parametrize(
    ("arguments", "begun"),
    [
        (["run", str(DIGITS), "--dry-run"], []),
        (["run", "sweeps/digit.yaml"], []),
        (["run", "--help"], []),
        (["run", str(DIGITS), "--trails", "3"], []),
        (["resume", "unknown"], []),
        (["run", str(DIGITS), "--verbose"], [(None, True)]),
        (["run", str(DIGITS), "--address", "auto"], [("auto", False)]),
    ],
)
def test_what_a_sweep_needs_is_started_early_for_a_sweep_only(
    arguments: list[str], begun: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found: list[Any] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "begin_early", lambda address, _, *, verbose: found.append((address, verbose)))
    monkeypatch.setattr(run, "show_dry_run", lambda *_, **__: None)
    monkeypatch.setattr(run, "run_to_end", lambda *_, **__: None)
    monkeypatch.setattr("orchestrator.config.load.load_sweep", lambda *_, **__: None)
    CliRunner().invoke(app, arguments)
    assert found == begun


@pytest.mark.parametrize("overrides", [["trials=ten"], ["trails=3"], ["training.epochs=[1"], ["search.x=[]"], []])
def test_what_was_started_early_is_broken_off_before_the_long_imports_for_mistyped_settings(
    overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    monkeypatch.setattr(run, "begin_early", lambda *_, **__: done.append("begun"))
    monkeypatch.setattr(run, "break_off", lambda: done.append("broken off"))
    monkeypatch.setattr("orchestrator.config.load.load_sweep", lambda *_, **__: done.append("checked"))
    monkeypatch.setattr(run, "run_to_end", lambda *_, **__: None)
    CliRunner().invoke(app, ["run", str(DIGITS), *(f"--set={text}" for text in overrides)])
    assert done == ["begun", *(["broken off"] if overrides else []), "checked"]


def test_a_command_interrupted_while_it_is_imported_ends_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)")
    command = [sys.executable, "-m", "orchestrator", "models"]
    environ = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
