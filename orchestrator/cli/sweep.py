"""The commands about sweeps that stand on disk: `spatialsweep status`, `list`, `repair`, `compare` and `delete`."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from orchestrator.cli.options import path_option
from orchestrator.plain_output import printable

app = typer.Typer()

Name = Annotated[str, typer.Argument(help="Name of a sweep, or its folder.")]
RunsDir = Annotated[
    Path | None,
    typer.Option(
        help="Folder of all results; default: runs here, ~/spatialsweep/runs in a Ray job.",
        parser=path_option,
        metavar="PATH",
    ),
]
TrackingUri = Annotated[str | None, typer.Option(help="MLflow with its password, which is not recorded.")]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON for programs.")]


@app.command()
def status(
    name: Name,
    runs_dir: RunsDir = None,
    as_json: AsJson = False,
    address: Annotated[
        str | None, typer.Option(help="Ask a cluster, by its dashboard's URL, for a submitted sweep.")
    ] = None,
) -> None:
    """Show how a sweep stands: running, finished, or left by a driver that died."""
    if address:
        from cluster.cli import show_job  # decision 0010

        show_job(name, address, as_json=as_json)
        return
    from orchestrator.cli.sweep_tables import print_status
    from orchestrator.results.comparison import facts_of
    from orchestrator.results.stored_sweep import find_sweep, read_sweep

    sweep = read_sweep(find_sweep(name, runs_dir))
    facts = facts_of(sweep)
    if as_json:
        tell(json.dumps(facts, indent=2))
        return
    elsewhere = ["--runs-dir", str(runs_dir)] if runs_dir else []
    print_status(facts, shlex.join(["spatialsweep", "resume", sweep.name, *elsewhere]), wide_console())


@app.command(name="list")
def list_sweeps(runs_dir: RunsDir = None, as_json: AsJson = False) -> None:
    """List all sweeps of a folder of results."""
    from orchestrator.cli.sweep_tables import print_list
    from orchestrator.files.runs_dir import resolve_runs_dir
    from orchestrator.records.folder.sweep_folder import SweepFolder, sweep_names
    from orchestrator.results.comparison import listed

    folder = resolve_runs_dir(runs_dir)
    rows = [listed(SweepFolder(folder / name)) for name in sweep_names(folder)]
    if as_json:
        tell(json.dumps(rows, indent=2))
    else:
        print_list(rows, str(folder), wide_console())
        for row in rows:
            if row["state"] == "damaged":
                typer.echo(row["damage"], err=True)


@app.command()
def repair(
    name: Name,
    runs_dir: RunsDir = None,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be dropped.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a damaged journal readable: what is sound is kept, the damaged file stays beside it."""
    from orchestrator.cli.sweep_tables import print_repair
    from orchestrator.records.repair import repair as repair_journal
    from orchestrator.results.stored_sweep import find_sweep

    done = repair_journal(find_sweep(name, runs_dir), dry_run=dry_run)
    if as_json:
        typer.echo(json.dumps(done.as_dict(), indent=2))
    else:
        print_repair(done, wide_console())


@app.command()
def compare(
    names: Annotated[list[str], typer.Argument(help="Names of sweeps, or their folders.")],
    runs_dir: RunsDir = None,
    as_json: AsJson = False,
) -> None:
    """Show sweeps side by side: outcome, cost, settings that differ, parameters of the best."""
    from orchestrator.cli.sweep_tables import print_comparison
    from orchestrator.results.comparison import comparison
    from orchestrator.results.stored_sweep import find_sweep, read_sweep

    found = comparison([read_sweep(find_sweep(name, runs_dir)) for name in names])
    if as_json:
        tell(json.dumps(found, indent=2))
    else:
        print_comparison(found, wide_console())


@app.command()
def delete(
    name: Name,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    keep_mlflow: Annotated[bool, typer.Option("--keep-mlflow", help="Leave its MLflow runs alone.")] = False,
    folder_only: Annotated[bool, typer.Option("--folder-only", help="Leave its study alone, too.")] = False,
    runs_dir: RunsDir = None,
    tracking_uri: TrackingUri = None,
    storage_uri: Annotated[str | None, typer.Option(help="The study's database, likewise.")] = None,
    as_json: AsJson = False,
) -> None:
    """Delete a sweep: its folder, its study, and (as MLflow does, to be restored) its runs."""
    from orchestrator.cli.sweep_tables import print_deletion
    from orchestrator.sweep.deletion import delete_sweep, deletion_of

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
        tell(json.dumps({**plan.as_dict(), "deleted": not dry_run}, indent=2))
    else:
        print_deletion(plan, wide_console(), done=not dry_run)


def tell(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Write a text as it is, but for control characters, which a terminal would obey."""
    typer.echo(printable(text), err=err, nl=nl)


def wide_console() -> Console:
    """Standard output; without a terminal wide enough that no line of a log is broken."""
    plain = Console()
    return plain if plain.is_terminal else Console(width=160)
