"""The command line as a user meets it: bad input, the dashboard."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow import MlflowClient

ROOT = Path(__file__).resolve().parents[1]
DIGITS = ROOT / "sweeps" / "digits.yaml"
COMMAND = [sys.executable, "-m", "orchestrator"]


def spatialsweep(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=240)


def wait_for(condition: Callable[[], Any], timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.1)


def test_version() -> None:
    done = spatialsweep("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("spatialsweep 0.")


def test_bad_input_is_listed_whole_and_starts_nothing(tmp_path: Path) -> None:
    done = spatialsweep(
        "run", str(DIGITS), "--runs-dir", str(tmp_path / "runs"), "--set", "trials=many", "--set", "training.lrr=0.1",
        "--set", "search.model.choices=[adaptive_resnet26_smal]", "--set", "dataset.name=digit",
    )  # fmt: skip
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


def test_an_address_where_no_cluster_answers_is_a_plain_error(tmp_path: Path) -> None:
    done = spatialsweep("run", str(DIGITS), "--runs-dir", str(tmp_path / "runs"), "--address", "127.0.0.1:1")
    assert done.returncode == 1
    assert "no Ray cluster answers at '127.0.0.1:1'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_dashboard_serves_the_recorded_runs(tmp_path: Path) -> None:
    refused = spatialsweep("dashboard", "--runs-dir", str(tmp_path))
    assert refused.returncode == 1
    assert "holds no runs yet" in refused.stderr

    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    client.create_run(client.create_experiment("spatialsweep"), run_name="a-sweep")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    page = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [*COMMAND, "dashboard", "--runs-dir", str(tmp_path), "--port", str(port)], cwd=ROOT, start_new_session=True
    )
    family: list[psutil.Process] = []
    try:
        wait_for(lambda: _answers(f"{page}/health"), timeout_s=90)
        family = psutil.Process(process.pid).children(recursive=True)
        query = urllib.request.Request(
            f"{page}/ajax-api/2.0/mlflow/experiments/search",
            data=json.dumps({"max_results": 10}).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(query, timeout=10) as answer:
            names = [experiment["name"] for experiment in json.load(answer)["experiments"]]
        assert "spatialsweep" in names
    finally:
        os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the whole foreground group
        process.wait(30)
    assert process.returncode == 0
    wait_for(lambda: not [member for member in family if member.is_running()], timeout_s=30)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False
