"""Commands about MLflow: `spatialsweep dashboard`, `register` and `sync`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from orchestrator.cli.options import (
    Kind,
    Network,
    RecordedStorageUri,
    RecordedTrackingUri,
    RunsDir,
    StoredSweepName,
    location_option,
    require_network,
)
from orchestrator.cli.output import tell

app = typer.Typer()


@app.command()
def dashboard(
    name: Annotated[str | None, typer.Argument(help="Name of a sweep, or its folder; default: all local runs.")] = None,
    *,
    optuna: Annotated[bool, typer.Option("--optuna", help="Open its study in optuna-dashboard instead.")] = False,
    runs_dir: RunsDir = None,
    port: Annotated[int | None, typer.Option(help="Port; default: 5000, for a study 8080.", min=1, max=65535)] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    browser: Annotated[bool | None, typer.Option(help="Open the page in a browser; default: in a terminal.")] = None,
    tracking_uri: RecordedTrackingUri = None,
    storage_uri: RecordedStorageUri = None,
) -> None:
    """Open a sweep in MLflow, or its study in optuna-dashboard; served here until Ctrl-C unless a server has it."""
    from orchestrator.dashboard.pages import Address, show_runs, show_study, show_sweep
    from orchestrator.results.stored_sweep import find_sweep

    address = Address(host, port, sys.stdout.isatty() if browser is None else browser)
    if name is None:
        if optuna:
            raise typer.BadParameter("name the sweep whose study to show", param_hint="NAME")
        show_runs(runs_dir, address)
    elif optuna:
        show_study(find_sweep(name, runs_dir), address, storage_uri)
    else:
        show_sweep(find_sweep(name, runs_dir), address, tracking_uri)


@app.command()
def sync(name: StoredSweepName, runs_dir: RunsDir = None, tracking_uri: RecordedTrackingUri = None) -> None:
    """Send MLflow the events that a sweep could not send while the server was unavailable."""
    from orchestrator.results.stored_sweep import find_sweep
    from orchestrator.sweep.sync import sync_sweep

    found = sync_sweep(find_sweep(name, runs_dir), tracking_uri)
    tell(f"{name}: {found.events} events sent to {found.tracking_uri}")


@app.command()
def register(
    name: Annotated[str, typer.Argument(help="Name of a sweep, or its folder; or weights with --model.")],
    *,
    registered: Annotated[str, typer.Option("--as", metavar="MODEL", help="Name in MLflow's model registry.")],
    alias: Annotated[str | None, typer.Option(help="Alias to move to this version, such as champion.")] = None,
    trial: Annotated[int | None, typer.Option(help="Number of the trial; default: the best.", min=0)] = None,
    model: Network = None,
    weights: Kind = None,
    dataset: Annotated[
        str | None,
        typer.Option(help="Dataset that names the classes of such weights; default: numbers.", metavar="URI"),
    ] = None,
    runs_dir: RunsDir = None,
    tracking_uri: RecordedTrackingUri = None,
) -> None:
    """Put the best network of a sweep, or weights of another program, into the model registry."""
    from orchestrator.inference.weights.converted import WeightsOf
    from orchestrator.results.stored_sweep import find_sweep
    from orchestrator.sweep.model_registration import register_file, register_trial

    require_network(model, weights)
    notes: tuple[str, ...] = ()
    if model is None:
        folder = find_sweep(name, runs_dir)
        number, found = register_trial(folder, registered, trial=trial, alias=alias, tracking_uri=tracking_uri)
        what = f"Trial {number} of {folder.name}"
    elif trial is not None:
        raise typer.BadParameter("weights of another program have no trials", param_hint="--trial")
    else:
        of = WeightsOf(model, weights, dataset)
        found, notes = register_file(
            location_option(name), of, registered, alias=alias, runs_dir=runs_dir, tracking_uri=tracking_uri
        )
        what = f"{model} with the weights of {name}"
    state = "is now" if found.is_new else "is already"
    called = f", called '{alias}'" if alias else ""
    for note in notes:
        tell(f"Note: {note}")
    tell(f"{what} {state} version {found.version} of {registered}{called}")
    version = f"models:/{registered}{f'@{alias}' if alias else f'/{found.version}'}"
    tell(f"Load:      mlflow.pytorch.load_model('{version}'), where MLFLOW_TRACKING_URI is {found.tracking_uri}")
