"""Deletion of the runs of a sweep in MLflow, and of their MLflow models."""

from __future__ import annotations

from collections.abc import Iterable

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from orchestrator.errors import TrackingError
from orchestrator.tracking.mlflow_client import open_client
from orchestrator.tracking.stored_checkpoints import versions_of
from orchestrator.uris import without_password


def delete_runs(runs: Iterable[str], tracking_uri: str) -> None:
    """Mark runs as deleted, as MLflow does: `mlflow gc` removes them, `mlflow runs restore` restores them.

    Their MLflow models are deleted for good, except those in the model registry.

    Args:
        runs: MLflow ids of the runs.
        tracking_uri: Address of the server or database.

    Raises:
        TrackingError: The server does not answer, or refuses.
    """
    try:
        client = open_client(tracking_uri)
        for run in runs:
            _delete_models_of(run, client)
            client.delete_run(run)
    except MlflowException as error:
        raise TrackingError(f"MLflow at {without_password(tracking_uri)} keeps its runs: {error}") from None


def _delete_models_of(run: str, client: MlflowClient) -> None:
    experiment = client.get_run(run).info.experiment_id
    for model in client.search_logged_models([experiment], f"source_run_id = '{run}'"):
        if not versions_of(client, model):
            client.delete_logged_model(model.model_id)
