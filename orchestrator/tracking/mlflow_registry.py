"""Puts models of trials into MLflow's model registry."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelStatus
from mlflow.exceptions import MlflowException

from orchestrator.errors import TrackingError
from orchestrator.tracking.mlflow_client import open_client
from orchestrator.tracking.mlflow_runs import find_run
from orchestrator.tracking.stored_checkpoints import StoredCheckpoints, find_model, versions_of
from orchestrator.uris import without_password


@dataclass(frozen=True)
class Registered:
    """A version of a registered model.

    Args:
        model: Its name.
        version: Its number, from 1.
        model_id: Of the model it is.
        is_new: Whether it was made now; False where this trial's model was registered under the name before.
    """

    model: str
    version: str
    model_id: str
    is_new: bool


def register_model(
    model: str, *, key: str, name: str, experiment: str, tracking_uri: str, checkpoint: Path | None, alias: str | None
) -> Registered:
    """Makes the model of a trial a version of a registered model; once, however often it is asked.

    Args:
        model: Name in the registry; made when absent.
        key: What the run of the trial stands for.
        name: That the trial's model gets where it has none yet.
        experiment: Name of the experiment.
        tracking_uri: Where the sweep is recorded.
        checkpoint: Weights to make a model of where there is none yet.
        alias: Moved to this version.

    Raises:
        TrackingError: The server does not answer or refuses, or the trial has no model and no checkpoint.
    """
    client, where = open_client(tracking_uri), without_password(tracking_uri)
    try:
        found = _model_of(client, key, experiment, name=name, checkpoint=checkpoint, tracking_uri=tracking_uri)
        if found is None:
            raise TrackingError(
                f"MLflow at {where} has no model of this trial, and there is no checkpoint to make one of. "
                "A sweep keeps those of its best trials (keep.best); `spatialsweep sync` sends what MLflow lacks"
            )
        if not client.search_registered_models(f"name = '{model}'"):
            client.create_registered_model(model)
        known = next((version for version in versions_of(client, found) if version.name == model), None)
        version = known or client.create_model_version(
            model, source=found.artifact_location, run_id=found.source_run_id, model_id=found.model_id
        )
        if alias:
            client.set_registered_model_alias(model, alias, str(version.version))
    except MlflowException as error:
        raise TrackingError(f"MLflow at {where} does not register the model: {error.message}") from None
    return Registered(model, str(version.version), str(found.model_id), is_new=known is None)


def _model_of(
    client: MlflowClient, key: str, experiment: str, *, name: str, checkpoint: Path | None, tracking_uri: str
) -> LoggedModel | None:
    """The model of a trial, made now where there is none; None where there is nothing to make it of."""
    known = client.get_experiment_by_name(experiment)
    run_id = find_run(client, known.experiment_id, key) if known else None
    if run_id is None:
        return None
    model = find_model(client, run_id, key)
    if (model is None or model.status != LoggedModelStatus.READY) and checkpoint is not None:
        fault = StoredCheckpoints(client, tracking_uri).keep(checkpoint, run_id, key=key, name=name)
        if fault:
            raise TrackingError(fault)
        model = find_model(client, run_id, key)
    return model if model is not None and model.status == LoggedModelStatus.READY else None
