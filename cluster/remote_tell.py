"""`spatialsweep tell --address`: a short job beside the one that runs a submitted sweep, on the cluster's own files."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Mapping, Sequence
from typing import Any

import typer

from cluster.job_client import RUNS_DIR_KEY, JobClient
from orchestrator.cli.output import tell as say
from orchestrator.errors import SweepNameError
from orchestrator.uris import without_password

_POLL_S = 0.5
_OF_RAY = re.compile(r"^\d{4}-\d\d-\d\d .*\bjob_manager\b.*|^Running entrypoint for job .*")


def tell_job(sweep: str, address: str, values: Sequence[str]) -> None:
    """Run `spatialsweep tell` as a job with the files and packages of the sweep's own job, and show what it printed.

    Args:
        sweep: Name of the submitted sweep.
        address: Address of the dashboard.
        values: Action of the command, its values and its options.

    Raises:
        SweepNameError: The cluster has no job of this sweep, or it has ended.
        ClusterError: The cluster does not answer.
        typer.Exit: The command failed in the job.
    """
    client = JobClient(address)
    job = client.newest(sweep)
    if job.is_over:
        raise SweepNameError(
            f"sweep '{job.sweep}' is not running on {without_password(client.address)}: job '{job.job}' has ended. "
            "`spatialsweep submit SWEEP.yaml --resume --set KEY=VALUE` continues it with other settings"
        )
    details = client.details(job.job)
    command = entrypoint(job.sweep, values, _runs_dir(details.entrypoint or "", details.metadata or {}))
    runtime_env = {key: value for key, value in (details.runtime_env or {}).items() if not key.startswith("_")}
    told = client.run(command, runtime_env)
    while not (state := client.state(told))[0]:
        time.sleep(_POLL_S)
    lines = [line for line in client.logs(told).splitlines() if line.strip() and not _OF_RAY.match(line)]
    done, code = state[1] == "SUCCEEDED", state[2]
    for line in lines:
        say(line, err=not done)
    if not done:
        raise typer.Exit(code or 1)


def entrypoint(sweep: str, values: Sequence[str], runs_dir: str | None) -> str:
    """Return the command of the job.

    Args:
        sweep: Name of the sweep.
        values: Action of the command, its values and its options.
        runs_dir: Folder of all results on the cluster; None takes the default of a job.
    """
    where = [] if runs_dir is None else [f"--runs-dir={runs_dir}"]
    return shlex.join(["python", "-m", "orchestrator", "tell", sweep, *values, *where])


def _runs_dir(command: str, metadata: Mapping[str, Any]) -> str | None:
    """Return the folder of all results of a sweep's job: an option of its command, or a setting of its file."""
    options = [part.partition("=")[2] for part in shlex.split(command) if part.startswith("--runs-dir=")]
    return options[-1] if options else metadata.get(RUNS_DIR_KEY)
