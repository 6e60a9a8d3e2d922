"""The Slurm script, run whole with stand-ins of Slurm, Ray and Python that record their calls."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "cluster" / "slurm" / "spatialsweep.sbatch"

# Every program notes its name, its arguments and whether it has the token; `$calls` is the test's.
NOTE = '#!/bin/bash\necho "$(basename "$0") $* token=${#RAY_AUTH_TOKEN}" >> "$calls"\n'
PROGRAMS = {
    # Runs what follows its options, as one task, and passes a TERM on.
    "srun": 'while [[ $1 == --* ]]; do shift; done\nexec "$@"\n',
    "scontrol": '[ "$1" = show ] && printf "node1\\nnode2\\nnode3\\n"\nexit 0\n',
    # Notes who can enter the folder that is to hold its files, and what it would deny others by itself.
    "ray": (
        '[ "$1" = start ] || exit 0\n'
        "folder=${*: -1}; folder=${folder#--temp-dir=}\n"
        'stat -c "%a" "${folder%/r}" >> "$calls.folders"; umask >> "$calls.umasks"; mkdir "$folder"\n'
        'echo $$ >> "$calls.pids"; exec sleep 600\n'
    ),
    "python": (
        f'if [ "$1" = -c ]; then exec {sys.executable} "$@"; fi\n'
        'until [ "$(cat "$calls.pids" | wc -l)" = 2 ]; do sleep 0.05; done\n'
        'if [ -n "$driver_waits" ]; then trap "exit 130" TERM; echo ready >> "$calls"; sleep 600 & wait; fi\nexit 3\n'
    ),
}

# Random, and short enough for the paths of Ray's sockets below it.
FOLDER = r"/tmp/ray\w{8}/r"


@pytest.fixture
def job(tmp_path: Path) -> dict[str, str]:
    """Return the environment of a job of three nodes."""
    programs = tmp_path / "environment" / "bin"
    programs.mkdir(parents=True)
    for name, body in PROGRAMS.items():
        (programs / name).write_text(NOTE + body)
        (programs / name).chmod(0o755)
    (programs / "activate").write_text(f"PATH={programs}:$PATH\n")
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SLURM_"))},
        "calls": str(tmp_path / "calls"),
        "SPATIALSWEEP_ENV": str(programs.parent),
        "SPATIALSWEEP_RUNS_DIR": str(tmp_path / "runs"),
        "SLURM_JOB_ID": "41234",
        "SLURM_JOB_NODELIST": "node[1-3]",
        "SLURM_JOB_NUM_NODES": "3",
        "SLURM_CPUS_PER_TASK": "16",
        "SLURM_GPUS_ON_NODE": "4",
    }


def calls(job: dict[str, str]) -> list[str]:
    path = Path(job["calls"])
    return path.read_text().splitlines() if path.exists() else []


def nothing_left(job: dict[str, str]) -> bool:
    pids = Path(job["calls"] + ".pids").read_text().split()
    return not any(Path(f"/proc/{pid}/cmdline").exists() for pid in pids)


def test_ray_is_started_on_all_nodes_and_ended_after_the_sweep(job: dict[str, str]) -> None:
    done = subprocess.run(
        ["bash", str(SCRIPT), "digits", "my sweep.yaml", "--set", "trials=3"], env=job, capture_output=True, text=True
    )
    assert done.returncode == 3, done.stderr  # the driver's
    starts = [re.sub(FOLDER, "FOLDER", call) for call in calls(job) if call.startswith("ray start")]
    head = "--head --block --disable-usage-stats --port=21234 --num-cpus=16 --num-gpus=4 --include-dashboard=false"
    worker = "--block --disable-usage-stats --address=node1:21234 --num-cpus=16 --num-gpus=4"
    expected = [f"ray start {options} --temp-dir=FOLDER token=64" for options in (head, worker)]
    assert sorted(starts) == sorted(expected)
    others, first = sorted(
        (call for call in calls(job) if call.startswith("srun")), key=lambda call: "--nodelist" in call
    )
    assert "--nodes=1 --ntasks=1 --nodelist=node1" in first
    assert "--nodes=2 --ntasks=2 --ntasks-per-node=1 --exclude=node1" in others
    (driver,) = (call for call in calls(job) if call.startswith("python -m"))
    arguments = f"run my sweep.yaml --name digits --runs-dir {job['SPATIALSWEEP_RUNS_DIR']} --address node1:21234"
    assert driver == f"python -m orchestrator {arguments} --set trials=3 token=64"
    assert not re.search(r"[0-9a-f]{64}", "\n".join(calls(job)) + done.stdout + done.stderr)
    assert nothing_left(job)


def test_rays_files_are_private_on_each_node_and_go_and_the_results_keep_the_users_mask(
    job: dict[str, str], tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    (disk / "of somebody else").mkdir(parents=True)
    done = subprocess.run(
        ["bash", str(SCRIPT), "digits", "sweep.yaml"],
        env={**job, "RAY_TMPDIR": str(disk)},
        umask=0o027,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 3, done.stderr
    folders = re.findall(rf"--temp-dir=({disk}/ray\w+/r) ", "\n".join(calls(job)))
    assert len(set(folders)) == 2
    assert Path(job["calls"] + ".folders").read_text().split() == ["700", "700"]
    assert Path(job["calls"] + ".umasks").read_text().split() == ["0027", "0027"]
    assert [path.name for path in disk.iterdir()] == ["of somebody else"]


def test_a_job_out_of_time_is_queued_again_and_goes_on(job: dict[str, str]) -> None:
    journal = Path(job["SPATIALSWEEP_RUNS_DIR"], "digits", "journal.jsonl")
    journal.parent.mkdir(parents=True)
    journal.write_text("{}\n")
    with subprocess.Popen(["bash", str(SCRIPT), "digits", "sweep.yaml"], env={**job, "driver_waits": "1"}) as process:
        while "ready" not in calls(job):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGUSR1)
        assert process.wait(60) == 130
    resumed = f"python -m orchestrator resume digits --runs-dir {job['SPATIALSWEEP_RUNS_DIR']} --address node1:21234"
    assert f"{resumed} token=64" in calls(job)
    assert calls(job)[-1].startswith("scontrol requeue 41234")
    assert nothing_left(job)


def test_what_is_missing_is_said(job: dict[str, str]) -> None:
    done = subprocess.run(["bash", str(SCRIPT), "digits"], env=job, capture_output=True, text=True)
    assert done.returncode != 0
    assert "the file of the sweep is missing: sbatch spatialsweep.sbatch NAME SWEEP.yaml" in done.stderr
