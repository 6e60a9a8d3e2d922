"""`spatialsweep submit` and what goes with it, against a real head with token authentication."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
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
from orchestrator import cli

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


def test_a_sweep_is_submitted_followed_left_and_stopped(tmp_path: Path) -> None:
    with local_head(num_cpus=2, environment={"HOME": str(tmp_path)}) as head:
        desk = Desk(tmp_path / "desk", head)
        refused = desk.run("submit", "sweep.yaml", RAY_AUTH_TOKEN="0" * 64)
        assert refused.returncode == 1
        assert "refuses the token. Set RAY_AUTH_TOKEN" in refused.stderr
        assert len(refused.stderr.splitlines()) == 1

        done = desk.run("submit", "sweep.yaml", "--follow", "--env", "SWEEP_SECRET")
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
        for expected in ("Package:   ", "Submitted: tiny to http://", "Versions:  python 3.", "tiny: finished"):
            assert expected in done.stdout
        assert done.stdout.splitlines()[-1] == "tiny: job 'tiny' has finished"
        assert SECRET not in done.stdout + done.stderr
        assert "Warning: this cluster has" not in done.stdout
        assert (tmp_path / "spatialsweep" / "runs" / "tiny" / "trials.parquet").exists()

        # A long one: left alone at Ctrl-C, refused a second time, stopped with its results written down.
        longer = ["submit", "sweep.yaml", "--name", "long", "--set", "training.epochs=1000"]
        code, seen = desk.follow_until("0/1 trials done, 1 running", *longer, "--follow")
        assert code == 130, seen
        assert f"spatialsweep stop long --address {desk.address}" in seen.splitlines()[-1]
        again, status, stopped, log, examined, listed, unknown = desk.run_all(
            longer,
            ["status", "long", "--json"],
            ["stop", "long"],
            ["logs", "long"],
            ["doctor", "--json"],
            ["jobs", "--json"],
            ["logs", "lang"],
        )

    assert again[0] == 2
    assert "sweep 'long' is being run by job 'long'" in again[2]
    told = json.loads(status[1])
    assert (told["state"], told["job"]) == ("RUNNING", "long")
    assert stopped[1] == "long: job 'long' stopped\n"
    assert "long: interrupted" in log[1]
    assert "Resume:    " in log[1]
    assert SECRET not in log[1]

    assert examined[0] == 0, examined
    levels = {finding["subject"]: finding["level"] for finding in json.loads(examined[1])}
    assert levels["versions"] == levels["token"] == levels["shared storage"] == "ok"

    states = {job["job"]: job["state"] for job in json.loads(listed[1])}
    assert states == {"tiny": "SUCCEEDED", "long": "STOPPED", "doctor": "SUCCEEDED"}
    assert unknown[0] == 2
    assert "Did you mean 'long'?" in unknown[2]
