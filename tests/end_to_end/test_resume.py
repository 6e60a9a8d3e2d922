"""Sweeps that stop in the middle and go on: by Ctrl-C, by `kill -9`, without Ray, and with something changed."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.support.journal_events import rewrite
from tests.support.sweeps.stopped_sweep import EPOCHS, ROOT, TRIALS, StoppedSweep, run_statuses, states
from tests.support.waiting import wait_for

RAYS_AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")  # which look for a lost cluster for a minute
# The command line, except that its search waits for a file after it has recorded the end of a trial.
HELD_AT_THE_END = """
import sys, time
from pathlib import Path
from orchestrator.cli.main import main
from orchestrator.records.ledger import Ledger

record, go_on = Ledger.trial_ended, Path(sys.argv.pop(1))

def held(*arguments):
    record(*arguments)
    while not go_on.exists():
        time.sleep(0.05)

Ledger.trial_ended = held
main()
"""
# The command line, with the terminal on its standard input as its own, which sends a signal when it closes; the tests
# may run under `nohup`.
IN_A_TERMINAL = """
import fcntl, signal, termios
from orchestrator.cli.main import main

signal.signal(signal.SIGHUP, signal.SIG_DFL)
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
main()
"""


def on_ray(test: Callable[..., None]) -> Callable[..., None]:
    """Mark a test of the sweep that is stopped several times, which may have to wait for its drivers."""
    return pytest.mark.ray(pytest.mark.slow(pytest.mark.timeout(600)(test)))


@dataclass
class Stage:
    """State of the sweep after one of its drivers has ended."""

    sweep: StoppedSweep
    code: int
    output: str
    states: dict[str, int]
    runs: dict[str, str]
    family: Family


class Family:
    """Processes below a driver."""

    def __init__(self, driver: subprocess.Popen[bytes]) -> None:
        self.processes = psutil.Process(driver.pid).children(recursive=True)
        (self.raylet,) = [child for child in self.processes if child.name() == "raylet"]
        self.agents = [child for child in self.processes if command_line(child).startswith(RAYS_AGENTS)]

    def has(self, name: str) -> bool:
        return any(name in command_line(child) for child in self.processes)


def command_line(process: psutil.Process) -> str:
    """Command line of a process; empty once it has ended."""
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def end_of(driver: subprocess.Popen[bytes], sweep: StoppedSweep, family: Family) -> Stage:
    code = driver.wait(240)
    return Stage(sweep, code, sweep.log.read_text(), states(sweep), run_statuses(sweep), family)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """Ctrl-C in the second of three trials."""
    sweep = StoppedSweep(tmp_path_factory.mktemp("stops"))
    sweep.network.hold_at("trial_reported", EPOCHS + 1)
    driver = sweep.start("run", str(sweep.file))
    sweep.wait_for_epochs(EPOCHS + 1)
    assert sweep.folder.is_driven
    family = Family(driver)
    assert family.has("RayTrainWorker")
    os.killpg(driver.pid, signal.SIGINT)  # a terminal sends it to the whole foreground group
    sweep.wait_for_the_stop()
    sweep.network.hold_at("trial_reported", 2 * EPOCHS + 1)
    return end_of(driver, sweep, family)


@pytest.fixture(scope="module")
def killed(interrupted: Stage) -> Stage:
    """Resumed; `kill -9` of the driver in the third trial."""
    driver = interrupted.sweep.start("resume", "stops")
    interrupted.sweep.wait_for_epochs(2 * EPOCHS + 1)
    family = Family(driver)
    driver.kill()
    return end_of(driver, interrupted.sweep, family)


@pytest.fixture(scope="module")
def terminated(killed: Stage) -> Stage:
    """Resumed; SIGTERM for all processes in the third trial, as a job manager sends it."""
    driver = killed.sweep.start("resume", "stops")
    wait_for(lambda: len(killed.sweep.events("trial_resumed")) == 2)
    family = Family(driver)
    os.killpg(driver.pid, signal.SIGTERM)
    return end_of(driver, killed.sweep, family)


@pytest.fixture(scope="module")
def without_ray(terminated: Stage) -> Stage:
    """Resumed; the raylet ended in the third trial, as `ray stop` does, so that Ray learns of the lost node at once."""
    sweep = terminated.sweep
    sweep.network.hold_at("trial_reported", 2 * EPOCHS + 2)
    driver = sweep.start("resume", "stops")
    sweep.wait_for_epochs(2 * EPOCHS + 2)
    family = Family(driver)
    family.raylet.terminate()
    return end_of(driver, sweep, family)


@pytest.fixture(scope="module")
def ended(without_ray: Stage) -> Stage:
    """Resumed; the raylet killed when there is nothing left that could be lost."""
    sweep, go_on = without_ray.sweep, without_ray.sweep.file.with_name("go-on")
    sweep.network.let_go()
    driver = sweep.start("resume", "stops", program=("-c", HELD_AT_THE_END, str(go_on)))
    wait_for(lambda: len(finished(sweep)) == TRIALS)
    family = Family(driver)
    family.raylet.kill()
    go_on.touch()
    return end_of(driver, sweep, family)


@on_ray
def test_ctrl_c_ends_a_sweep_after_the_epoch_and_names_the_way_back(interrupted: Stage) -> None:
    assert interrupted.code == 130, interrupted.output
    assert "Stopping after the epochs now running" in interrupted.output
    assert "stops: interrupted" in interrupted.output
    assert "resume stops --runs-dir" in interrupted.output
    assert "Traceback" not in interrupted.output


@on_ray
def test_what_was_done_before_ctrl_c_is_kept_and_nothing_runs_on(interrupted: Stage) -> None:
    folder = interrupted.sweep.folder.path
    assert (folder / "trials.parquet").exists()
    assert not (folder / "scratch").exists()
    assert interrupted.states == {"COMPLETE": 1, "WAITING": 1}
    assert interrupted.runs == {"stops": "KILLED", "stops/trial-00000": "FINISHED", "stops/trial-00001": "KILLED"}
    assert_all_end(interrupted.family.processes, within_s=120)


@on_ray
def test_everything_ends_with_a_killed_driver(killed: Stage) -> None:
    family = killed.family
    assert_all_end([child for child in family.processes if child not in family.agents], within_s=120)
    assert not killed.sweep.folder.is_driven


@on_ray
def test_sigterm_for_ray_too_interrupts_a_sweep(terminated: Stage) -> None:
    assert terminated.code == 130, terminated.output
    assert "stops: interrupted" in terminated.output
    assert "resume stops --runs-dir" in terminated.output
    assert "GCS" not in terminated.output
    assert terminated.states == {"COMPLETE": 2, "WAITING": 1}
    assert terminated.runs["stops"] == "KILLED"
    assert_all_end(terminated.family.processes, within_s=120)


@on_ray
def test_a_sweep_that_loses_ray_fails_and_names_the_way_back(without_ray: Stage) -> None:
    output, runs_dir = without_ray.output, without_ray.sweep.runs_dir
    assert without_ray.code == 1, output
    lost = (
        f"Ray has ended under this sweep: its raylet on this machine, process {without_ray.family.raylet.pid}, is gone"
    )
    assert lost in output
    assert "Traceback" not in output
    assert f"What is done is kept; resume it with `spatialsweep resume stops --runs-dir {runs_dir}`" in output
    assert without_ray.states == {"COMPLETE": 2, "WAITING": 1}
    assert without_ray.runs["stops"] == "FAILED"
    assert_all_end(without_ray.family.processes, within_s=120)


@on_ray
def test_a_sweep_that_loses_ray_at_its_very_end_has_finished(ended: Stage) -> None:
    assert ended.code == 0, ended.output
    assert f"{TRIALS} trials, 2 of them done before" in ended.output
    assert "stops: finished" in ended.output
    assert ended.states == {"COMPLETE": TRIALS}
    assert set(ended.runs.values()) == {"FINISHED"}
    assert len(ended.runs) == 1 + TRIALS


@on_ray
def test_a_sweep_stopped_again_and_again_trains_each_epoch_once(ended: Stage) -> None:
    reported = Counter((event["trial"], event["epoch"]) for event in ended.sweep.events("trial_reported"))
    assert reported == {(trial, epoch): 1 for trial in range(TRIALS) for epoch in range(1, EPOCHS + 1)}
    assert [event["trial"] for event in ended.sweep.events("trial_started")] == [0, 1, 2]
    assert {event["trial"] for event in ended.sweep.events("trial_resumed")} == {1, 2}


@on_ray
def test_a_finished_sweep_has_nothing_to_resume(ended: Stage, killed: Stage) -> None:
    code, output = ended.sweep.call("resume", "stops")
    assert (code, "all 3 trials are done" in output) == (0, True), output
    assert len(ended.sweep.events("trial_started")) == TRIALS
    assert_all_end(killed.family.agents, within_s=120)


@on_ray
def test_a_closed_terminal_stops_a_sweep_that_goes_on_when_the_reader_of_its_output_has_quit(tmp_path: Path) -> None:
    sweep = StoppedSweep(tmp_path)
    sweep.network.hold_at("trial_reported", 2)
    terminal, inner = pty.openpty()
    command = [sys.executable, "-c", IN_A_TERMINAL, "run", str(sweep.file), "--runs-dir", str(sweep.runs_dir)]
    driver = subprocess.Popen(command, cwd=ROOT, stdin=inner, stdout=inner, stderr=inner, start_new_session=True)
    os.close(inner)
    wait_for(lambda: is_drained(terminal) and len(sweep.events("trial_reported")) >= 2)
    os.close(terminal)  # the kernel sends SIGHUP, and what is written to the terminal from now on is an error
    assert driver.wait(240) == 130
    assert [event["status"] for event in sweep.events("sweep_ended")] == ["interrupted"]

    sweep.network.let_go()
    command[1:5] = ["-m", "orchestrator", "resume", "stops"]
    driver = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert driver.stdout is not None
    driver.stdout.readline()
    driver.stdout.close()
    _, said = driver.communicate(timeout=240)
    assert (driver.returncode, b"nobody reads this output any more" in said) == (0, True), said
    assert len(finished(sweep)) == TRIALS


def is_drained(terminal: int) -> bool:
    """Read what a terminal shows, so that its program need not wait; return True."""
    while select.select([terminal], [], [], 0)[0]:
        os.read(terminal, 4096)
    return True


def assert_all_end(family: list[psutil.Process], *, within_s: float) -> None:
    _, alive = psutil.wait_procs(family, timeout=within_s)
    assert [child for child in alive if child.status() != psutil.STATUS_ZOMBIE] == []


def finished(sweep: StoppedSweep) -> set[int]:
    return {event["trial"] for event in sweep.events("trial_ended") if event["status"] == "finished"}


def test_names_are_taken_once_and_known_ones_are_offered(begun: StoppedSweep) -> None:
    code, output = begun.call("run", str(begun.file))
    assert code == 2
    assert "sweep 'stops' exists already" in output
    assert "`spatialsweep resume stops`" in output
    code, output = begun.call("resume", "stop")
    assert code == 2
    assert "Did you mean 'stops'?" in output
    assert "Traceback" not in output


def test_two_drivers_do_not_work_on_one_sweep(begun: StoppedSweep) -> None:
    with begun.folder.driven():
        code, output = begun.call_in_new_process("resume", "stops")
    assert code == 2
    assert f"sweep 'stops' is being run by process {os.getpid()}" in output


def test_what_mlflow_missed_is_sent_later(begun: StoppedSweep) -> None:
    code, output = begun.call("sync", "stops")
    assert code == 0, output
    assert "stops: 1 events sent to sqlite:///" in output
    assert run_statuses(begun) == {"stops": "RUNNING"}
    code, output = begun.call("sync", "stops")
    assert (code, "stops: 0 events sent" in output) == (0, True), output


def test_a_changed_sweep_is_not_resumed_and_the_changes_are_listed(begun: StoppedSweep) -> None:
    code, output = begun.call("run", str(begun.file), "--resume", "--set", "search.lr.high=0.02", "--set", "seed=7")
    assert code == 2
    assert "search.lr.high: was 0.01, is 0.02" in output
    assert "seed: was 0, is 7" in output
    assert "search space: was" in output
    assert "--allow-changed" in output
    assert "code: was" not in output


def test_changed_code_and_data_are_noticed(begun: StoppedSweep) -> None:
    changed = {"code": "0123", "dataset content": "4567"}
    rewrite(begun.folder.journal, lambda first: first.update(identity={**first["identity"], **changed}))
    code, output = begun.call("resume", "stops")
    assert code == 2
    assert "code: was 0123, is" in output
    assert "dataset content: was 4567, is" in output


@pytest.fixture
def begun(tmp_path: Path) -> StoppedSweep:
    """Return a sweep whose driver died before its first trial."""
    from orchestrator.config import load_sweep
    from orchestrator.data import locate_dataset
    from orchestrator.records.journal import Journal
    from orchestrator.records.ledger import Ledger
    from orchestrator.sweep.compatibility import identity

    sweep = StoppedSweep(tmp_path, "conv_resnet26_small")
    config = load_sweep(sweep.file, [f"runs_dir={sweep.runs_dir}"])
    content = config.model_dump(mode="json")
    with Journal(sweep.folder.journal) as journal:
        located = locate_dataset("digits", None, sweep.runs_dir / "datasets")
        Ledger(journal).sweep_started("stops", content, {}, identity(config, located))
    return sweep
