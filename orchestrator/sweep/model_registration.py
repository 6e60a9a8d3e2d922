"""Registration of networks in MLflow's model registry: of a sweep, or from weights of another program."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.config.option_values import setting_values
from orchestrator.config.plans import resolve_tracking
from orchestrator.config.sections.tracking import TrackingConfig
from orchestrator.errors import TrackingError
from orchestrator.files.contained_paths import contained
from orchestrator.files.runs_dir import resolve_runs_dir
from orchestrator.inference.weights.converted import WeightsOf, converted_weights
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.results.stored_sweep import read_sweep
from orchestrator.server_addresses import embedded_uri, require_readable
from orchestrator.sweep.compatibility import stored_config

if TYPE_CHECKING:
    from orchestrator.tracking.mlflow_registry import Registered


def register_trial(
    folder: SweepFolder,
    model: str,
    *,
    trial: int | None = None,
    alias: str | None = None,
    tracking_uri: str | None = None,
) -> tuple[int, Registered]:
    """Register the network of a trial.

    Args:
        folder: Folder of the sweep.
        model: Name in the registry.
        trial: Number of the trial; None takes the best.
        alias: Alias to move to the new version, such as `champion`.
        tracking_uri: Tracking URI with its password; None takes the recorded one.

    Returns:
        Number of the trial, and its version in the registry.

    Raises:
        TrackingError: There is no such trial or no model of it, or MLflow does not answer.
    """
    from orchestrator.tracking.mlflow_client import silence_mlflow
    from orchestrator.tracking.mlflow_registry import register_model

    silence_mlflow()
    values = setting_values(tracking_uri=tracking_uri)
    tracking = stored_config(folder, values=values, contacted=("tracking",)).tracking
    sweep = read_sweep(folder)
    try:
        chosen = sweep.result.best if trial is None else sweep.result.trial(trial)
    except KeyError:
        raise TrackingError(f"{sweep.name} has no trial {trial}") from None
    if chosen is None:
        raise TrackingError(f"no trial of {sweep.name} has finished an epoch")
    registered = register_model(
        model,
        key=f"{sweep.uid}/{chosen.number}",
        name=f"{sweep.name}-trial-{chosen.number:05d}",
        experiment=tracking.experiment,
        tracking_uri=tracking.uri or embedded_uri(folder.path.parent),
        checkpoint=None if chosen.checkpoint is None else contained(folder.path, chosen.checkpoint, "checkpoint"),
        alias=alias,
    )
    return chosen.number, registered


def register_file(
    source: str | Path,
    of: WeightsOf,
    model: str,
    *,
    alias: str | None = None,
    runs_dir: str | Path | None = None,
    tracking_uri: str | None = None,
) -> tuple[Registered, tuple[str, ...]]:
    """Register weights of another program, such as those that the authors of a paper published.

    Args:
        source: File of weights, see `converted_weights`.
        of: Network of the weights.
        model: Name in the registry.
        alias: Alias to move to the new version, such as `champion`.
        runs_dir: Folder of results, whose database is used where no server is named; None takes the default.
        tracking_uri: Tracking URI; None takes that database.

    Returns:
        Version in the registry, and notes about what was read.

    Raises:
        CheckpointError: The weights cannot be read, or are not of the network.
        TrackingError: MLflow does not answer.
    """
    from orchestrator.tracking.mlflow_client import silence_mlflow
    from orchestrator.tracking.mlflow_registry import register_weights

    silence_mlflow()
    require_readable(tracking_uri)
    folder = resolve_runs_dir(runs_dir)
    with converted_weights(source, of, tracking_uri=tracking_uri, datasets_folder=folder / "datasets") as converted:
        folder.mkdir(parents=True, exist_ok=True)
        registered = register_weights(
            model,
            key=f"weights/{converted.sha256}/{of.model}",
            name=f"{of.model}-{Path(str(source)).name.partition('.')[0] or 'weights'}",
            tracking=resolve_tracking(TrackingConfig(uri=tracking_uri), folder),
            checkpoint=converted.path,
            alias=alias,
        )
        return registered, converted.notes
