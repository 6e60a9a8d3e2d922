"""Command `spatialsweep doctor`."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from cluster.job_client import JobClient
from orchestrator.cli.exit_codes import FAILED, INTERRUPTED
from orchestrator.cli.options import AsJson
from orchestrator.cli.output import tell_json, wide_console
from orchestrator.errors import ClusterError
from orchestrator.plain_output import say
from orchestrator.uris import without_password

app = typer.Typer()

_COLOURS = {"ok": "green", "warning": "yellow", "failure": "red"}


@app.command()
def doctor(
    *,
    address: Annotated[
        str | None,
        typer.Option(help="Cluster to join (host:6379, auto), or URL of its dashboard (http://head:8265)."),
    ] = None,
    runs_dir: Annotated[str | None, typer.Option(help="Folder of results that every node must share.")] = None,
    tracking_uri: Annotated[str | None, typer.Option(help="MLflow server that every node must reach.")] = None,
    storage_uri: Annotated[str | None, typer.Option(help="Database of the studies; without password.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check a cluster: versions, access, devices, storage, servers, clocks, disks; exit code 1 on a failure."""
    if address is not None and address.startswith(("http://", "https://")):
        raise typer.Exit(_ask_through_dashboard(address, runs_dir, tracking_uri, storage_uri, as_json=as_json))
    from cluster.doctor import FAILURE, examine
    from orchestrator.runtime.ray_session import ray_session

    with ray_session(address):
        findings = examine(runs_dir, tracking_uri, storage_uri)
    if as_json:
        tell_json([finding.as_dict() for finding in findings])
    else:
        console = wide_console()
        for finding in findings:
            mark = f"[{_COLOURS[finding.level]}]{finding.level:<8}[/]"
            console.print(mark, end="", highlight=False)
            say(console, f"{finding.subject:<16}{finding.message}")
    if any(finding.level == FAILURE for finding in findings):
        raise typer.Exit(FAILED)


def _ask_through_dashboard(
    url: str, runs_dir: str | None, tracking_uri: str | None, storage_uri: str | None, *, as_json: bool
) -> int:
    """Run the same command as a job on the head, which reaches all nodes; return its exit code."""
    import shlex

    from cluster.following import Detached, follow
    from cluster.package import own_package

    given = {"--runs-dir": runs_dir, "--tracking-uri": tracking_uri, "--storage-uri": storage_uri}
    # Everyone who sees the cluster's jobs can read the command; reaching a port needs no password.
    shown = {name: without_password(value) for name, value in given.items() if value is not None}
    options = [part for pair in shown.items() for part in pair]
    command = ["python", "-m", "orchestrator", "doctor", *options, *(["--json"] if as_json else [])]
    client = JobClient(url)
    with tempfile.TemporaryDirectory(prefix="spatialsweep-") as folder:
        target = Path(folder) / "package.zip"
        own_package().write(target)
        mode = {name: os.environ[name] for name in ("RAY_AUTH_MODE",) if name in os.environ}
        job = client.submit(
            "doctor",
            entrypoint=shlex.join(command),
            runtime_env={"working_dir": str(target), "env_vars": mode},
            metadata={},
        )
    try:
        ended = follow(client, client.look(job), lambda piece: typer.echo(_findings_only(piece), nl=False))
    except Detached:
        return INTERRUPTED
    if ended.state != "SUCCEEDED" and ended.exit_code != 1:
        raise ClusterError(f"the examination did not end: {ended.message or ended.state}")
    return ended.exit_code or 0


def _findings_only(piece: str) -> str:
    """Remove Ray's own log lines about the job."""
    noise = (" INFO job_manager.py:", "\tINFO job_manager.py:", "Running entrypoint for job ")
    return "".join(line for line in piece.splitlines(keepends=True) if not any(text in line for text in noise))
