"""Commands `spatialsweep report` and `spatialsweep verdict`."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import (
    Address,
    AsJson,
    Assignments,
    NewName,
    RecordedTrackingUri,
    RunsDir,
    StoredSweepName,
    Verbose,
    path_option,
)
from orchestrator.cli.output import tell, tell_json, wide_console
from orchestrator.config.option_values import setting_values
from orchestrator.quick_imports import quick_imports, without_packages

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.results.stored_sweep import StoredSweep

app = typer.Typer()

_SWEEP_FILES = (".yaml", ".yml")

# A user waits for this command: report an unavailable server after one retry.
_SHORT_RETRIES = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}


@app.command()
def report(
    name: StoredSweepName,
    *,
    runs_dir: RunsDir = None,
    output: Annotated[
        Path | None,
        typer.Option(help="File to write; default: report.html of the sweep.", parser=path_option, metavar="PATH"),
    ] = None,
    tracking_uri: RecordedTrackingUri = None,
) -> None:
    """Write the report of a sweep: one HTML file that needs no network; also stored in MLflow."""
    with quick_imports():  # Optuna and MLflow import most of what they need when it is used
        _write(name, runs_dir, output, tracking_uri)


def _write(name: str, runs_dir: Path | None, output: Path | None, tracking_uri: str | None) -> None:
    """Write the report of a sweep, and store it in MLflow."""
    with without_packages("matplotlib", "sklearn"):  # for plots and measures of importance that the report has not
        importlib.import_module("optuna.importance")
        importlib.import_module("optuna.visualization")
    from orchestrator.report import write_report
    from orchestrator.results.stored_sweep import find_sweep, read_sweep

    if output is not None:
        _require_target(output)
    sweep = read_sweep(find_sweep(name, runs_dir))
    samples = None
    if sweep.result.task.annotation:
        from orchestrator.inference.predict.samples import sweep_pictures

        samples = sweep_pictures(sweep)
    path = write_report(sweep, output or sweep.folder / "report.html", samples)
    tell(f"Report:    {path}")
    _record(sweep, path, tracking_uri)


@app.command()
def verdict(
    sweep: Annotated[str, typer.Argument(help="Name of a sweep, or its folder; or a sweep file, run as a tournament.")],
    *,
    by: Annotated[
        str | None, typer.Option(help="Setting whose choices are compared; default: that of the tournament, or model.")
    ] = None,
    objective: Annotated[
        str | None, typer.Option(help="Metric to compare by, such as test/top1; default: the sweep's objective.")
    ] = None,
    assignments: Assignments = None,
    name: NewName = None,
    runs_dir: RunsDir = None,
    address: Address = None,
    verbose: Verbose = False,
    output: Annotated[
        Path | None,
        typer.Option(help="File to write; default: verdict.html of the sweep.", parser=path_option, metavar="PATH"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare the choices of a setting, such as networks: which is better, by how much, and how sure that is.

    With the file of a sweep, a tournament is run first: every choice gets as many configurations, epochs and seeds.
    """
    from orchestrator.results.stored_sweep import find_sweep, read_sweep

    if output is not None:
        _require_target(output)
    if Path(sweep).suffix in _SWEEP_FILES:
        if as_json:
            raise typer.BadParameter("is for a stored sweep; run the tournament first", param_hint="--json")
        values = setting_values(name=name, runs_dir=runs_dir)
        sweep, by = _run_tournament(path_option(sweep), by, assignments or (), values, address=address, verbose=verbose)
    else:
        _refuse_options_of_a_tournament({"--set": assignments, "--name": name, "--address": address})
    from orchestrator.cli.tables.verdict import print_verdict
    from orchestrator.verdicts.page import write_verdict
    from orchestrator.verdicts.verdict import verdict as reach_verdict

    stored = read_sweep(find_sweep(sweep, runs_dir))
    found = reach_verdict(stored, by=by, objective=objective)
    path = write_verdict(found, output or stored.folder / "verdict.html")
    if as_json:
        tell_json({**found.as_dict(), "page": str(path)})
        return
    print_verdict(found, wide_console())
    tell(f"Page:      {path}")


def _run_tournament(
    file: Path,
    by: str | None,
    assignments: Sequence[str],
    values: Mapping[str, str],
    *,
    address: str | None,
    verbose: bool,
) -> tuple[str, str | None]:
    """Run the tournament of a sweep file to its end; return the folder of the sweep, and what it compares."""
    from orchestrator.cli.run import run_to_end
    from orchestrator.config.plans import resolve_plans
    from orchestrator.verdicts.tournament import load_tournament

    config = load_tournament(file, assignments, by=by, values=values)
    run_to_end(config, address, resume=False, allow_changed=False, verbose=verbose, sweep_file=file)
    return str(resolve_plans(config).paths.runs_dir / config.name), config.tournament


def _require_target(path: Path) -> None:
    """Refuse to overwrite a folder, or a file that is not a report."""
    from orchestrator.errors import ConfigError, Problem
    from orchestrator.report.page import is_report

    if path.is_dir() or (path.exists() and not is_report(path)):
        what = "a folder" if path.is_dir() else "a file that is no report"
        raise ConfigError([Problem(f"--output {path}", f"is {what}, and stays as it is. Name another file")])


def _record(sweep: StoredSweep, path: Path, tracking_uri: str | None) -> None:
    """Store the report with the sweep's MLflow run; warn where that fails, since the file is already written."""
    for name, value in _SHORT_RETRIES.items():
        os.environ.setdefault(name, value)
    from orchestrator.errors import ConfigError, TrackingError
    from orchestrator.records.folder.recorded_addresses import confirmed_tracking_uri
    from orchestrator.tracking.mlflow_client import silence_mlflow
    from orchestrator.tracking.mlflow_runs import store_result_file

    silence_mlflow()
    try:
        run = store_result_file(path, sweep.uid, confirmed_tracking_uri(sweep.result, tracking_uri))
    except (ConfigError, TrackingError) as error:
        tell(f"Warning: the report is not in MLflow: {error}", err=True)
    else:
        tell(f"In MLflow: run {run}, {path.name} under results")


def _refuse_options_of_a_tournament(options: Mapping[str, object]) -> None:
    if given := [option for option, value in options.items() if value]:
        raise typer.BadParameter("is for a tournament; give a sweep file", param_hint=", ".join(given))
