"""Registration of trials' networks in MLflow's model registry."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelStatus
from mlflow.exceptions import MlflowException

from orchestrator.config.plans import TrackingPlan
from orchestrator.errors import TrackingError
from orchestrator.tracking.mlflow_client import open_client
from orchestrator.tracking.mlflow_runs import KEY, experiment_id, find_run
from orchestrator.tracking.stored_checkpoints import StoredCheckpoints, find_model, versions_of
from orchestrator.uris import without_password


@dataclass(frozen=True)
class Registered:
    """Version of a registered model.

    Args:
        model: Name of the registered model.
        version: Number of the version, from 1.
        model_id: Id of the MLflow model.
        is_new: True where the version was created now; False where the trial's MLflow model was registered before.
        tracking_uri: Address of the server or database, without its password.
    """

    model: str
    version: str
    model_id: str
    is_new: bool
    tracking_uri: str


def register_model(
    model: str, *, key: str, name: str, experiment: str, tracking_uri: str, checkpoint: Path | None, alias: str | None
) -> Registered:
    """Register the network of a trial as a version of a registered model; a repeated call changes nothing.

    Args:
        model: Name of the registered model, which is created where it is absent.
        key: Key of the trial's run, see `mlflow_runs.KEY`.
        name: Name of the trial's MLflow model, where it has to be created.
        experiment: Name of the experiment.
        tracking_uri: Address of the server or database.
        checkpoint: Path of the weights, for a trial without an MLflow model.
        alias: Alias to move to this version; None for none.

    Raises:
        TrackingError: The server does not answer or refuses, or the trial has neither MLflow model nor checkpoint.
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
    return Registered(model, str(version.version), str(found.model_id), is_new=known is None, tracking_uri=where)


def register_weights(
    model: str,
    *,
    key: str,
    name: str,
    tracking: TrackingPlan,
    checkpoint: Path,
    alias: str | None,
) -> Registered:
    """Register weights of another program, as the model of a run of their own; a repeated call changes nothing.

    Args:
        model: Name of the registered model, which is created where it is absent.
        key: Key of the run, which identifies the weights.
        name: Name of the run and of its MLflow model.
        tracking: Place of the run.
        checkpoint: Path of the weights in our format.
        alias: Alias to move to this version; None for none.

    Raises:
        TrackingError: The server does not answer or refuses.
    """
    client = open_client(tracking.uri)
    try:
        experiment = experiment_id(client, tracking.experiment, tracking_uri=tracking.uri, artifacts=tracking.artifacts)
        if find_run(client, experiment, key) is None:
            run = client.create_run(experiment, run_name=name, tags={KEY: key})
            client.set_terminated(run.info.run_id)
    except MlflowException as error:
        where = without_password(tracking.uri)
        raise TrackingError(f"MLflow at {where} does not register the model: {error.message}") from None
    return register_model(
        model,
        key=key,
        name=name,
        experiment=tracking.experiment,
        tracking_uri=tracking.uri,
        checkpoint=checkpoint,
        alias=alias,
    )


def _model_of(
    client: MlflowClient, key: str, experiment: str, *, name: str, checkpoint: Path | None, tracking_uri: str
) -> LoggedModel | None:
    """Find the MLflow model of a trial, or create it from the checkpoint; None where neither exists."""
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
