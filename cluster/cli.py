"""Commands about clusters: `spatialsweep submit`, `jobs`, `logs`, `stop` and `doctor`."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster import doctor_cli
from cluster.following import Detached, follow
from cluster.job_client import RUNS_DIR_KEY, TRACKING_KEY, JobClient, SweepJob
from cluster.remote_tell import tell_job
from orchestrator.cli.exit_codes import INTERRUPTED
from orchestrator.cli.options import AllowChanged, AsJson, Assignments, NewName, Resume, SweepFile, path_option
from orchestrator.cli.output import tell, tell_json, wide_console
from orchestrator.cli.steering import register_tell_job
from orchestrator.cli.sweep import register_job_status
from orchestrator.config.option_values import setting_values
from orchestrator.files.known_code import note_code
from orchestrator.records.folder.known_servers import note_dataset, note_server
from orchestrator.uris import without_password, without_secrets

if TYPE_CHECKING:
    from cluster.package import Package
    from cluster.submission import CheckedSweep

app = typer.Typer()
app.add_typer(doctor_cli.app)

Sweep = Annotated[str, typer.Argument(help="Name of a submitted sweep.")]
Dashboard = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="URL",
        envvar="RAY_API_SERVER_ADDRESS",
        help="Ray's dashboard on the cluster's head, such as http://head:8265; default: this machine's.",
    ),
]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Show the log until the job ends.")]


@app.command()
def submit(
    sweep: SweepFile,
    *,
    address: Dashboard = None,
    follow_log: Follow = False,
    assignments: Assignments = None,
    name: NewName = None,
    tracking_uri: Annotated[str | None, typer.Option(help="MLflow server that the cluster reaches.")] = None,
    runs_dir: Annotated[
        str | None, typer.Option(help="Folder of all results that every node reaches; default: ~/spatialsweep/runs.")
    ] = None,
    working_dir: Annotated[
        Path,
        typer.Option(help="Folder sent with the job, without data and runs.", parser=path_option, metavar="PATH"),
    ] = Path(),
    env: Annotated[
        list[str] | None,
        typer.Option("--env", metavar="NAME", help="Environment variable to pass to the job. Repeatable."),
    ] = None,
    install: Annotated[
        bool,
        typer.Option("--install", help="Install this machine's package versions; default: the cluster's."),
    ] = False,
    resume: Resume = False,
    allow_changed: AllowChanged = False,
) -> None:
    """Run a sweep on a cluster, as a job that no longer needs this machine."""
    from cluster import package, submission

    overrides = assignments or []
    values = setting_values(name=name, tracking_uri=tracking_uri, runs_dir=runs_dir)
    checked = submission.check_sweep(sweep, overrides, values, resume=resume)
    variables = submission.passed_on(env or ())
    packed = package.plan_package(working_dir, sweep, network_files=checked.network_files)
    submission.require_checkpoints(checked.checkpoints, packed, working_dir)
    _show_package(checked, packed)
    client = JobClient(address)
    with tempfile.TemporaryDirectory(prefix="spatialsweep-") as folder:
        target = Path(folder) / "package.zip"
        packed.write(target)
        job = client.submit(
            checked.name,
            entrypoint=submission.entrypoint(
                packed.sweep, overrides, values, resume=resume, allow_changed=allow_changed
            ),
            runtime_env=submission.runtime_env(
                target, variables, install=install, constrained="constraints.txt" in packed.files
            ),
            metadata={
                **({TRACKING_KEY: checked.tracking_uri} if checked.tracking_uri else {}),
                **({RUNS_DIR_KEY: checked.runs_dir} if checked.runs_dir else {}),
            },
        )
    tell(f"Submitted: {job} to {without_password(client.address)}")
    _note_sources(checked)
    _show_ways(client, checked.name, checked.tracking_uri)
    if follow_log:
        _follow(client, client.look(job))


def _note_sources(checked: CheckedSweep) -> None:
    """Note the servers that commands on this machine may contact, and the networks that they may run."""
    if checked.tracking_uri:
        note_server(checked.tracking_uri)
    note_dataset(checked.dataset_uri)
    for source in checked.network_files:
        note_code(source.sha256)


def _show_package(checked: CheckedSweep, packed: Package) -> None:
    """Print what is sent, what is left out, and what could not be checked on this machine."""
    from cluster.package import megabytes, size_limit

    if checked.unread:
        tell(f"Not here:  {without_secrets(checked.unread)} The job looks at the images itself", err=True)
    tell(f"Package:   {len(packed.files)} files, {megabytes(packed.bytes)} of at most {megabytes(size_limit())}")
    for left_out in packed.left_out:
        tell(f"Left out:  {left_out}", err=True)


@app.command()
def logs(sweep: Sweep, *, address: Dashboard = None, follow_log: Follow = False) -> None:
    """Show the log of a submitted sweep."""
    client = JobClient(address)
    job = client.newest(sweep)
    if follow_log:
        _follow(client, job)
    else:
        typer.echo(client.logs(job.job), nl=False)


@app.command()
def stop(
    sweep: Sweep,
    *,
    address: Dashboard = None,
    wait: Annotated[bool, typer.Option(help="Wait until its results are written.")] = True,
) -> None:
    """Stop a submitted sweep; finished work is kept, and `submit --resume` continues it."""
    client = JobClient(address)
    job = client.newest(sweep)
    if not client.stop(job.job):
        tell(f"{sweep}: job '{job.job}' is not running, it has {_outcome(job)}")
        return
    while wait and not job.is_over:
        time.sleep(0.5)
        job = client.look(job.job)
    tell(f"{sweep}: job '{job.job}' {'stopped' if wait else 'was asked to stop'}")


@app.command()
def jobs(address: Dashboard = None, as_json: AsJson = False) -> None:
    """List the sweeps submitted to a cluster."""
    from rich.table import Table

    from orchestrator.plain_output import add_row, cell

    client = JobClient(address)
    found = client.jobs()
    if as_json:
        tell_json([job.as_dict() for job in found])
        return
    title = cell(without_password(client.address))
    table = Table("sweep", "job", "state", "started", "minutes", title=title)
    for job in found:
        began = time.strftime("%Y-%m-%d %H:%M", time.localtime(job.started_ms / 1000))
        took = (job.ended_ms or time.time() * 1000) - job.started_ms
        add_row(table, job.sweep, job.job, job.state.lower(), began, f"{took / 60000:.1f}")
    wide_console().print(table)


def show_job(sweep: str, address: str, as_json: bool) -> None:
    """Show the state of a submitted sweep's job and the last line of its log.

    Raises:
        ClusterError: The cluster does not answer.
        SweepNameError: The cluster knows no such sweep.
    """
    from orchestrator.progress.progress_view import RUNNING_LINE

    client = JobClient(address)
    job = client.newest(sweep)
    lines = [line for line in client.logs(job.job).splitlines() if line.strip()]
    last = lines[-1] if lines else ""
    training = "" if job.is_over else next((line for line in reversed(lines) if RUNNING_LINE in line), "")
    if as_json:
        tell_json({**job.as_dict(), "last_line": last, "training": training})
        return
    state = f"has {_outcome(job)}" if job.is_over else job.state.lower()
    where = without_password(client.address)
    tell(f"{job.sweep}: job '{job.job}' on {where} {'' if job.is_over else 'is '}{state}")
    tell(f"Last line: {last}")
    if training and training != last:
        tell(training[training.index(RUNNING_LINE) :])
    if job.is_over:
        tell(f"Log:       spatialsweep logs {_at(client, job.sweep)}")
    else:
        _show_ways(client, job.sweep, job.tracking_uri)


def _follow(client: JobClient, job: SweepJob) -> None:
    """Show the log of a job to its end, and exit with its code."""

    def write(piece: str) -> None:
        sys.stdout.write(piece)
        sys.stdout.flush()

    try:
        ended = follow(client, job, write)
    except Detached:
        tell(f"\nDetached; '{job.sweep}' continues. Stop it with: spatialsweep stop {_at(client, job.sweep)}", err=True)
        raise typer.Exit(INTERRUPTED) from None
    tell(f"{job.sweep}: job '{ended.job}' has {_outcome(ended)}")
    if ended.tracking_uri:
        tell(f"MLflow:    {ended.tracking_uri}")
    if ended.state != "SUCCEEDED":
        raise typer.Exit(INTERRUPTED if ended.state == "STOPPED" else (ended.exit_code or 1))


def _show_ways(client: JobClient, sweep: str, tracking_uri: str | None) -> None:
    tell(f"Watch:     spatialsweep logs {_at(client, sweep)} --follow")
    tell(f"Stop:      spatialsweep stop {_at(client, sweep)}")
    if tracking_uri:
        tell(f"MLflow:    {tracking_uri}")


def _at(client: JobClient, sweep: str) -> str:
    return f"{sweep} --address {without_password(client.address)}"


def _outcome(job: SweepJob) -> str:
    if job.state == "FAILED":
        return f"failed: {job.message.strip().splitlines()[0] if job.message.strip() else 'no reason given'}"
    return {"SUCCEEDED": "finished", "STOPPED": "been stopped"}.get(job.state, job.state.lower())


register_job_status(show_job)
register_tell_job(tell_job)
