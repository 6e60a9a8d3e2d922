"""The documented way onto a cluster: `ray job submit` against a real head with token authentication."""

from __future__ import annotations

import json
import re
import subprocess
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cluster import LocalHead, local_head

ROOT = Path(__file__).resolve().parents[2]
TRIALS = 3  # of which one is trained to the end
SETTINGS = f"--set trials={TRIALS} --set sampler.startup=random"  # with these draws the best of so few is a good one
SUBMIT = f"ray job submit --working-dir . -- python -m orchestrator run sweeps/digits.yaml {SETTINGS}"

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1200)]


def run(command: str, head: LocalHead, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command.split(), cwd=ROOT, env={**head.client_environment, **environment}, capture_output=True, text=True
    )


def living(head: LocalHead) -> list[str]:
    """Return the classes of living actors, without the service that Ray Train keeps for all jobs of a cluster."""
    actors = run(f"ray list actors --format json --limit 1000 --address {head.dashboard_url}", head)
    alive = [actor["class_name"] for actor in json.loads(actors.stdout) if actor["state"] != "DEAD"]
    return [name for name in alive if name != "_AutoscalingCoordinatorActor"]


def test_a_submitted_sweep_runs_to_its_end_and_logs_plain_lines(tmp_path: Path) -> None:
    with local_head(num_cpus=2, environment={"HOME": str(tmp_path)}) as head:
        refused = run(SUBMIT, head, RAY_AUTH_TOKEN="0" * 64)
        assert refused.returncode != 0

        done = run(SUBMIT, head)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
        alive, deadline = living(head), time.monotonic() + 120
        while alive and time.monotonic() < deadline:
            alive = living(head)

    lines = done.stdout.splitlines()
    progress = [
        line
        for line in lines
        if re.match(rf"\d\d:\d\d  \d+/{TRIALS} trials done, \d+ running, .* \| best val/top1", line)
    ]
    assert len(progress) >= TRIALS
    assert "\x1b[2K" not in "".join(progress)
    assert any(line.startswith("digits: finished") for line in lines)
    runs_dir = tmp_path / "spatialsweep" / "runs"
    assert f"Results:   {runs_dir}/digits/trials.parquet" in lines
    assert f"Dashboard: spatialsweep dashboard digits --runs-dir {runs_dir}" in lines

    trials = pq.read_table(runs_dir / "digits" / "trials.parquet").to_pylist()
    assert len(trials) == TRIALS
    assert {row["status"] for row in trials} <= {"finished", "paused"}
    best = max((row for row in trials if row["status"] == "finished"), key=lambda row: row["value"])
    assert best["test_top1"] > 0.97
    assert alive == []
