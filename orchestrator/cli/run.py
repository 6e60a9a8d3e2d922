"""Commands that run a sweep: `spatialsweep run` and `resume`."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.exit_codes import FAILED, INTERRUPTED
from orchestrator.cli.options import (
    Address,
    AllowChanged,
    AllowCode,
    Assignments,
    DryRun,
    DryRunAsJson,
    NewName,
    Resume,
    RunsDir,
    SweepFile,
    TrackingUri,
    Verbose,
)
from orchestrator.cli.output import tell, tell_json, wide_console
from orchestrator.config.option_values import setting_values
from orchestrator.lanes.lane_modules import LANE_MODULES
from orchestrator.lasting_output import lasting_output
from orchestrator.quick_imports import quick_imports
from orchestrator.runtime.early.early_start import begin_early, break_off
from orchestrator.runtime.submitted_versions import version_report

if TYPE_CHECKING:
    from rich.console import Console

    from orchestrator.config import SweepConfig
    from orchestrator.results.sweep_result import SweepResult

app = typer.Typer()


@app.command()
def run(
    sweep: SweepFile,
    *,
    assignments: Assignments = None,
    name: NewName = None,
    tracking_uri: TrackingUri = None,
    runs_dir: RunsDir = None,
    address: Address = None,
    resume: Resume = False,
    allow_changed: AllowChanged = False,
    verbose: Verbose = False,
    dry_run: DryRun = False,
    as_json: DryRunAsJson = False,
) -> None:
    """Run a sweep to its end and show its result."""
    for line in version_report():
        tell(line)
    values = setting_values(name=name, tracking_uri=tracking_uri, runs_dir=runs_dir)
    early = not dry_run and sweep.is_file()
    if early:
        begin_early(address, LANE_MODULES, verbose=verbose)
    with quick_imports():
        from orchestrator.config.load import has_plain_faults, load_sweep
        from orchestrator.config.validation.training_rules import unused_accepted

        if early and has_plain_faults(sweep, assignments or (), values):
            break_off()
        with unused_accepted() if resume else contextlib.nullcontext():
            config = load_sweep(sweep, assignments or (), values=values)
    if dry_run:
        show_dry_run(config, address, as_json=as_json)
    else:
        run_to_end(config, address, resume=resume, allow_changed=allow_changed, verbose=verbose, sweep_file=sweep)


@app.command()
def resume(
    name: Annotated[str, typer.Argument(help="Name of a sweep that was started before.")],
    *,
    assignments: Assignments = None,
    tracking_uri: TrackingUri = None,
    runs_dir: RunsDir = None,
    address: Address = None,
    allow_changed: AllowChanged = False,
    allow_code: AllowCode = False,
    verbose: Verbose = False,
) -> None:
    """Resume a sweep: keep ended trials, continue interrupted ones from their checkpoints."""
    from orchestrator.files.runs_dir import resolve_runs_dir
    from orchestrator.records.folder.sweep_folder import existing_folder
    from orchestrator.records.folder.sweep_identity import require_original
    from orchestrator.sweep.compatibility import stored_config

    folder = existing_folder(resolve_runs_dir(runs_dir), name)
    require_original(folder)
    begin_early(address, LANE_MODULES, verbose=verbose)
    values = setting_values(tracking_uri=tracking_uri, runs_dir=folder.path.parent)
    config = stored_config(folder, assignments or (), values=values, allow_code=allow_code)
    run_to_end(config, address, resume=True, allow_changed=allow_changed, verbose=verbose)


def run_to_end(
    config: SweepConfig,
    address: str | None,
    *,
    resume: bool,
    allow_changed: bool,
    verbose: bool,
    sweep_file: Path | None = None,
) -> None:
    """Run a sweep and show its result.

    Args:
        config: Checked settings of the sweep.
        address: Ray cluster to join; None starts a private instance.
        resume: Resume the sweep of this name.
        allow_changed: Resume although space, data, code or objective have changed.
        verbose: Show the output of Ray and its workers.
        sweep_file: File that the settings were read from.

    Raises:
        typer.Exit: The sweep was interrupted (code 130), or no trial has a value (code 1).
    """
    with quick_imports():
        from orchestrator.records.ledger import TrialStatus
        from orchestrator.sweep.run import run_sweep

    with lasting_output():
        console = wide_console()
        result = run_sweep(
            config,
            resume=resume,
            allow_changed=allow_changed,
            address=address,
            console=console,
            verbose=verbose,
            sweep_file=sweep_file,
        )
        _show_result(result, config, console)
    if result.status is TrialStatus.INTERRUPTED:
        raise typer.Exit(INTERRUPTED)
    if result.best is None:
        raise typer.Exit(FAILED)


def _show_result(result: SweepResult, config: SweepConfig, console: Console) -> None:
    """Show the result of a sweep, and the commands that continue from it."""
    from orchestrator.files.runs_dir import inside_ray_job
    from orchestrator.progress.progress_view import print_outcome
    from orchestrator.records.ledger import TrialStatus

    runs_dir_option = f" --runs-dir {shlex.quote(str(result.folder.parent))}"
    print_outcome(result, console, f"{own_command()} dashboard {result.name}{runs_dir_option}")
    elsewhere = "" if config.runs_dir is None else runs_dir_option
    tell(f"Report:    {own_command()} report {result.name}{elsewhere}")
    if result.status is TrialStatus.INTERRUPTED:
        command = f"{own_command()} resume {result.name}{elsewhere}"
        tell(f"Resume:    {'submit it again with --resume' if inside_ray_job() else command}")


def show_dry_run(config: SweepConfig, address: str | None, *, as_json: bool) -> None:
    """Show the plan of a sweep without starting it.

    Raises:
        typer.Exit: No lane fits on the cluster (code 1).
    """
    with quick_imports():
        from orchestrator.cli.tables.dry_run import print_dry_run
        from orchestrator.sweep.dry_run import dry_run

    found = dry_run(config, address=address, say=lambda text: typer.echo(text, err=True))
    if as_json:
        tell_json(found.as_dict())
    else:
        print_dry_run(found, wide_console())
    if found.plan is None:
        raise typer.Exit(FAILED)


def own_command() -> str:
    """Return the command that starts SpatialSweep: by name where the shell finds it, else by path."""
    return "spatialsweep" if shutil.which("spatialsweep") else f"{sys.executable} -m orchestrator"
