"""`spatialsweep submit` and what goes with it, against a real head with token authentication."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster import LocalHead, local_head

ROOT = Path(__file__).resolve().parents[2]
SECRET = "hush-hush-7391"
SWEEP = """
name: tiny
dataset: {name: digits}
model: {name: conv_resnet26_small}
training: {epochs: 1, global_batch_size: 256, optimizer: adamw}
search: {lr: {type: float, low: 1e-3, high: 1e-2, log: true}}
trials: 1
trial_scheduler: {name: none}
resources: {workers: 1}
"""

# Several commands in one interpreter, since importing Ray takes longer than most of them.
ONE_AFTER_ANOTHER = """
import contextlib, io, json, sys
from orchestrator.cli import main as cli

done = []
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["spatialsweep", *arguments]
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
    done.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(done))
"""

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]


class Desk:
    """A user's machine: a folder that is no checkout, and the command."""

    def __init__(self, folder: Path, head: LocalHead) -> None:
        self.folder = folder
        folder.mkdir()
        (folder / "sweep.yaml").write_text(SWEEP)
        environment = {**head.client_environment, "PYTHONPATH": str(ROOT), "SWEEP_SECRET": SECRET, "COLUMNS": "200"}
        # The address is given, and having the token is enough.
        self.environment = {
            key: value for key, value in environment.items() if key not in ("RAY_API_SERVER_ADDRESS", "RAY_AUTH_MODE")
        }
        self.address = head.dashboard_url

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "orchestrator", *arguments, "--address", self.address]

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )

    def run_all(self, *commands: list[str]) -> list[tuple[int, str, str]]:
        """Exit code, output and errors of one command after another."""
        given = json.dumps([[*command, "--address", self.address] for command in commands])
        done = subprocess.run(
            [sys.executable, "-c", ONE_AFTER_ANOTHER, given],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, done.stderr
        return [tuple(result) for result in json.loads(done.stdout.splitlines()[-1])]

    def follow_until(self, text: str, *arguments: str) -> tuple[int, str]:
        """Follows a sweep until a line holds the text, then presses Ctrl-C."""
        with subprocess.Popen(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
        ) as process:
            assert process.stdout is not None
            seen = []
            for line in process.stdout:
                seen.append(line)
                if text in line:
                    process.send_signal(signal.SIGINT)
            return process.wait(), "".join(seen)


LONGER = ["submit", "sweep.yaml", "--name", "long", "--set", "training.epochs=5000"]


@dataclass
class Answers:
    """Exit code, output and errors of the commands that were given while the long sweep ran."""

    again: tuple[int, str, str]
    status: tuple[int, str, str]
    changed: tuple[int, str, str]
    refused: tuple[int, str, str]
    stopped: tuple[int, str, str]
    log: tuple[int, str, str]
    examined: tuple[int, str, str]
    listed: tuple[int, str, str]
    unknown: tuple[int, str, str]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Home folder of the head's processes, which jobs write their results to."""
    return tmp_path_factory.mktemp("submit")


@pytest.fixture(scope="module")
def desk(home: Path) -> Iterator[Desk]:
    with local_head(num_cpus=2, environment={"HOME": str(home)}) as head:
        yield Desk(home / "desk", head)


@pytest.fixture(scope="module")
def followed(desk: Desk) -> subprocess.CompletedProcess[str]:
    """Submit a sweep and follow it to its end."""
    return desk.run("submit", "sweep.yaml", "--follow", "--env", "SWEEP_SECRET")


@pytest.fixture(scope="module")
def left(desk: Desk, followed: subprocess.CompletedProcess[str]) -> tuple[int, str]:
    """Submit a long sweep after the first, and press Ctrl-C while it trains."""
    return desk.follow_until("0/1 trials done, 1 running", *LONGER, "--follow")


@pytest.fixture(scope="module")
def answers(desk: Desk, left: tuple[int, str]) -> Answers:
    return Answers(
        *desk.run_all(
            LONGER,
            ["status", "long", "--json"],
            ["tell", "long", "set", "trials=2"],
            ["tell", "long", "stop", "9"],
            ["stop", "long"],
            ["logs", "long"],
            ["doctor", "--json"],
            ["jobs", "--json"],
            ["logs", "lang"],
        )
    )


def test_a_wrong_token_is_refused_in_one_line(desk: Desk) -> None:
    refused = desk.run("submit", "sweep.yaml", RAY_AUTH_TOKEN="0" * 64)
    assert refused.returncode == 1
    assert "refuses the token. Set RAY_AUTH_TOKEN" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


def test_a_submitted_sweep_is_followed_to_its_end(followed: subprocess.CompletedProcess[str], home: Path) -> None:
    assert followed.returncode == 0, followed.stdout[-4000:] + followed.stderr[-2000:]
    for expected in ("Package:   ", "Submitted: tiny to http://", "Versions:  python 3.", "tiny: finished"):
        assert expected in followed.stdout
    assert followed.stdout.splitlines()[-1] == "tiny: job 'tiny' has finished"
    assert "Warning: this cluster has" not in followed.stdout
    assert (home / "spatialsweep" / "runs" / "tiny" / "trials.parquet").exists()


def test_a_secret_of_the_sweep_stands_in_no_output(
    followed: subprocess.CompletedProcess[str], answers: Answers
) -> None:
    assert SECRET not in followed.stdout + followed.stderr
    assert SECRET not in answers.log[1]


def test_ctrl_c_leaves_the_sweep_alone_and_names_the_command_that_stops_it(desk: Desk, left: tuple[int, str]) -> None:
    code, seen = left
    assert code == 130, seen
    assert f"spatialsweep stop long --address {desk.address}" in seen.splitlines()[-1]


def test_a_sweep_that_runs_is_not_submitted_again(answers: Answers) -> None:
    assert answers.again[0] == 2
    assert "sweep 'long' is being run by job 'long'" in answers.again[2]
    status = json.loads(answers.status[1])
    assert (status["state"], status["job"]) == ("RUNNING", "long")


def test_a_submitted_sweep_is_steered_where_it_runs(answers: Answers) -> None:
    assert answers.changed[:2] == (0, "long: trials is 2\n"), answers.changed
    assert answers.refused[0] == 1, answers.refused
    assert answers.refused[2] == "spatialsweep: sweep 'long' has no trial 9. Running or paused: 0\n"


def test_a_sweep_that_is_stopped_writes_its_results_down(answers: Answers) -> None:
    assert answers.stopped[1] == "long: job 'long' stopped\n"
    assert "long: interrupted" in answers.log[1]
    assert "Resume:    " in answers.log[1]


def test_doctor_finds_the_cluster_in_order(answers: Answers) -> None:
    assert answers.examined[0] == 0, answers.examined
    levels = {finding["subject"]: finding["level"] for finding in json.loads(answers.examined[1])}
    assert levels["versions"] == levels["token"] == levels["shared storage"] == "ok"


def test_jobs_are_listed_and_the_nearest_is_offered(answers: Answers) -> None:
    states = {job["job"]: job["state"] for job in json.loads(answers.listed[1])}
    assert states == {"tiny": "SUCCEEDED", "long": "STOPPED", "doctor": "SUCCEEDED"}
    assert answers.unknown[0] == 2
    assert "Did you mean 'long'?" in answers.unknown[2]
