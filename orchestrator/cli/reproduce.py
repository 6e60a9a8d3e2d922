"""Command `spatialsweep reproduce`: tables of the papers."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.exit_codes import FAILED, INTERRUPTED
from orchestrator.cli.options import Address, AllowChanged, Assignments, DryRun, RunsDir, TrackingUri, Verbose
from orchestrator.cli.output import tell, tell_json, wide_console
from orchestrator.cli.run import own_command
from orchestrator.config.option_values import setting_values
from orchestrator.lasting_output import lasting_output
from orchestrator.quick_imports import quick_imports

if TYPE_CHECKING:
    from orchestrator.reproduce.run import Reproduction, TableRun

app = typer.Typer()


@app.command()
def reproduce(
    paper: Annotated[str | None, typer.Argument(help="Paper; without it all tables are listed.")] = None,
    table: Annotated[str | None, typer.Argument(help="Table of the paper; without it its tables are listed.")] = None,
    *,
    scale: Annotated[
        str, typer.Option(help="'paper' runs the recipes; 'small' takes minutes on a few CPU cores.")
    ] = "paper",
    seeds: Annotated[int | None, typer.Option(help="Seeds of every row; default: 3, or what the table says.")] = None,
    only: Annotated[list[str] | None, typer.Option("--only", metavar="ROW", help="Run this row. Repeatable.")] = None,
    assignments: Assignments = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the results; default: PAPER-TABLE-SCALE.")] = None,
    tracking_uri: TrackingUri = None,
    runs_dir: RunsDir = None,
    address: Address = None,
    allow_changed: AllowChanged = False,
    verbose: Verbose = False,
    dry_run: DryRun = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write the plan or the results as JSON.")] = False,
) -> None:
    """Reproduce a table of a paper: run its rows with several seeds, and compare with the published numbers.

    Repeat the command to continue: finished rows and seeds are kept. Its report is in RUNS/reproduce/NAME.
    """
    with quick_imports():
        from orchestrator.cli.tables import reproduce as tables
        from orchestrator.reproduce.run import prepare_run

    if paper is None or table is None:
        tables.print_tables(tables.listed(paper), wide_console(), as_json=as_json)
        return
    run = prepare_run(
        paper,
        table,
        scale=scale,
        seeds=seeds,
        only=only or (),
        assignments=assignments or (),
        name=name,
        values=setting_values(tracking_uri=tracking_uri, runs_dir=runs_dir),
    )
    if dry_run:
        _show_plan(run, address, as_json=as_json)
        return
    with lasting_output():
        done = _run(run, address, allow_changed=allow_changed, verbose=verbose, as_json=as_json)
    _end(done, run, [paper, table, "--scale", scale])


def _show_plan(run: TableRun, address: str | None, *, as_json: bool) -> None:
    from orchestrator.cli.tables.reproduce import print_plan
    from orchestrator.reproduce.dry_run import plan_of

    plan = plan_of(run, address=address)
    if as_json:
        tell_json(plan.as_dict())
    else:
        print_plan(plan, wide_console())


def _run(run: TableRun, address: str | None, *, allow_changed: bool, verbose: bool, as_json: bool) -> Reproduction:
    """Run the sweeps of a table and show its result; with JSON on standard output, nothing else is written there."""
    with quick_imports():
        from orchestrator.cli.tables.reproduce import print_result
        from orchestrator.reproduce.run import reproduce as run_table

    console = None if as_json else wide_console()
    done = run_table(
        run,
        address=address,
        console=console,
        verbose=verbose,
        allow_changed=allow_changed,
        begun=lambda sweep: tell(f"Sweep {sweep.name}, settings in {sweep.file}", err=as_json),
    )
    if console is None:
        tell_json(done.result.as_dict())
    else:
        print_result(done.result, console)
        for kind, path in vars(done.files).items():
            if path is not None:
                tell(f"{kind.capitalize() + ':':<11}{path}")
    return done


def _end(done: Reproduction, run: TableRun, arguments: list[str]) -> None:
    """End the command with the exit code of its outcome.

    Raises:
        typer.Exit: A sweep was interrupted (code 130), or a row has no value (code 1).
    """
    if done.interrupted:
        more = f" --name {run.folder.name}" if run.folder.name != f"{arguments[0]}-{arguments[1]}-{run.scale}" else ""
        tell(f"Continue:  {own_command()} reproduce {shlex.join(arguments)}{more}, with the same options", err=True)
        raise typer.Exit(INTERRUPTED)
    if not done.result.is_complete:
        raise typer.Exit(FAILED)
