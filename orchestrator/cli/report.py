"""Command `spatialsweep report`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import RecordedTrackingUri, RunsDir, StoredSweepName, path_option
from orchestrator.cli.output import tell

if TYPE_CHECKING:
    from orchestrator.results.stored_sweep import StoredSweep

app = typer.Typer()

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
    from orchestrator.report import write_report
    from orchestrator.results.stored_sweep import find_sweep, read_sweep

    if output is not None:
        _require_target(output)
    sweep = read_sweep(find_sweep(name, runs_dir))
    path = write_report(sweep, output or sweep.folder / "report.html")
    tell(f"Report:    {path}")
    _record(sweep, path, tracking_uri)


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
    from orchestrator.tracking.mlflow_runs import silence, store_beside_results

    silence()
    try:
        run = store_beside_results(path, sweep.uid, confirmed_tracking_uri(sweep.result, tracking_uri))
    except (ConfigError, TrackingError) as error:
        tell(f"Warning: the report is not in MLflow: {error}", err=True)
    else:
        tell(f"In MLflow: run {run}, {path.name} under results")
