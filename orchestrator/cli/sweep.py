"""Commands about sweeps on disk: `spatialsweep status`, `list`, `repair`, `compare`, `replay` and `delete`."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import AsJson, RecordedStorageUri, RecordedTrackingUri, RunsDir, StoredSweepName
from orchestrator.cli.output import tell_json, wide_console
from orchestrator.errors import SweepNameError

if TYPE_CHECKING:
    from orchestrator.records.folder.sweep_folder import SweepFolder

app = typer.Typer()

JobStatus = Callable[[str, str, bool], None]
"""Function that shows a submitted sweep: its name, the address of the cluster's dashboard, and whether as JSON."""

_job_status: list[JobStatus] = []


def register_job_status(show: JobStatus) -> None:
    """Register the function that serves `status --address`; `cluster.cli` calls this when it is imported."""
    _job_status[:] = [show]


@app.command()
def status(
    name: StoredSweepName,
    runs_dir: RunsDir = None,
    as_json: AsJson = False,
    address: Annotated[
        str | None, typer.Option(help="URL of a cluster's dashboard, to show a sweep submitted to it.")
    ] = None,
) -> None:
    """Show the state of a sweep: running, finished, interrupted, or dead with its driver."""
    if address:
        if not _job_status:
            raise typer.BadParameter("needs the commands about clusters; call `spatialsweep`", param_hint="--address")
        _job_status[0](name, address, as_json)
        return
    from orchestrator.cli.tables.sweeps import print_status
    from orchestrator.results.comparison import facts_of
    from orchestrator.results.stored_sweep import find_sweep, read_sweep

    folder = find_sweep(name, runs_dir)
    facts = facts_of(read_sweep(folder))
    if as_json:
        tell_json(facts)
        return
    print_status(facts, _way_on(folder, runs_dir), wide_console())


def _way_on(folder: SweepFolder, runs_dir: Path | None) -> str:
    """Return the command that resumes a sweep, or why its folder cannot be resumed, as a line."""
    from orchestrator.files.runs_dir import resolve_runs_dir
    from orchestrator.records.folder.sweep_identity import require_original

    try:
        require_original(folder)
    except SweepNameError as error:
        return f"Not resumed here: {error}"
    place = folder.path.parent
    if runs_dir is not None and place == resolve_runs_dir(runs_dir).resolve():
        place = runs_dir  # as the user has written it
    elsewhere = ["--runs-dir", str(place)] if place != resolve_runs_dir(None).resolve() else []
    return f"Resume it:  {shlex.join(['spatialsweep', 'resume', folder.name, *elsewhere])}"


@app.command(name="list")
def list_sweeps(runs_dir: RunsDir = None, as_json: AsJson = False) -> None:
    """List all sweeps of a folder of results."""
    from orchestrator.cli.tables.sweeps import print_list
    from orchestrator.files.runs_dir import resolve_runs_dir
    from orchestrator.records.folder.sweep_folder import SweepFolder, sweep_names
    from orchestrator.results.comparison import status_row

    folder = resolve_runs_dir(runs_dir)
    rows = [status_row(SweepFolder(folder / name)) for name in sweep_names(folder)]
    if as_json:
        tell_json(rows)
    else:
        print_list(rows, str(folder), wide_console())
        for row in rows:
            if row["state"] == "damaged":
                typer.echo(row["damage"], err=True)


@app.command()
def repair(
    name: StoredSweepName,
    runs_dir: RunsDir = None,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be dropped.")] = False,
    as_json: AsJson = False,
) -> None:
    """Repair a damaged journal: keep its sound events, and the damaged file beside the new one."""
    from orchestrator.cli.tables.sweeps import print_repair
    from orchestrator.records.repair import repair as repair_journal
    from orchestrator.results.stored_sweep import find_sweep

    done = repair_journal(find_sweep(name, runs_dir), dry_run=dry_run)
    if as_json:
        tell_json(done.as_dict())
    else:
        print_repair(done, wide_console())


@app.command()
def compare(
    names: Annotated[list[str], typer.Argument(help="Names of sweeps, or their folders.")],
    runs_dir: RunsDir = None,
    as_json: AsJson = False,
) -> None:
    """Compare sweeps: result, cost, settings that differ, parameters of the best trial."""
    from orchestrator.cli.tables.sweeps import print_comparison
    from orchestrator.results.comparison import comparison
    from orchestrator.results.stored_sweep import find_sweep, read_sweep

    found = comparison([read_sweep(find_sweep(name, runs_dir)) for name in names])
    if as_json:
        tell_json(found)
    else:
        print_comparison(found, wide_console())


@app.command()
def replay(
    name: StoredSweepName,
    *,
    strategy: Annotated[
        str, typer.Option(help="Sampler, trial scheduler, or both: random, asha, tpe+freeze_thaw.", metavar="NAME")
    ],
    lanes: Annotated[
        int | None, typer.Option(help="Trials at the same time; default: as many as the sweep had.")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Number of seeds of the sampler.")] = 5,
    runs_dir: RunsDir = None,
    as_json: AsJson = False,
) -> None:
    """Show what another strategy would have found on the recorded curves of a sweep, and at what cost."""
    from orchestrator.cli.tables.replay import print_replay
    from orchestrator.results.replay import replay_sweep

    found = replay_sweep(name, strategy, lanes=lanes, seeds=seeds, runs_dir=runs_dir)
    if as_json:
        tell_json(found.as_dict())
    else:
        print_replay(found, wide_console())


@app.command()
def delete(
    name: StoredSweepName,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be deleted.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    keep_mlflow: Annotated[bool, typer.Option("--keep-mlflow", help="Keep its MLflow runs.")] = False,
    folder_only: Annotated[bool, typer.Option("--folder-only", help="Keep its study and its MLflow runs.")] = False,
    runs_dir: RunsDir = None,
    tracking_uri: RecordedTrackingUri = None,
    storage_uri: RecordedStorageUri = None,
    as_json: AsJson = False,
) -> None:
    """Delete a sweep: its folder, its study, and its MLflow runs, which MLflow can restore."""
    from orchestrator.cli.tables.sweeps import print_deletion
    from orchestrator.results.deletion import delete_sweep, deletion_of

    if as_json and not (dry_run or yes):
        raise typer.BadParameter("cannot ask in JSON; add --yes or --dry-run", param_hint="--json")
    with deletion_of(
        name,
        runs_dir,
        keep_mlflow=keep_mlflow,
        folder_only=folder_only,
        tracking_uri=tracking_uri,
        storage_uri=storage_uri,
        dry_run=dry_run,
    ) as plan:
        if not (dry_run or yes):
            print_deletion(plan, wide_console(), done=False)
            typer.confirm("Delete all of it?", abort=True)
        if not dry_run:
            delete_sweep(plan)
    if as_json:
        tell_json({**plan.as_dict(), "deleted": not dry_run})
    else:
        print_deletion(plan, wide_console(), done=not dry_run)
