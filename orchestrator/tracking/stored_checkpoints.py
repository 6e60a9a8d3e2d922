"""Checkpoints of a sweep in MLflow: files as artifacts of their trials, the best weights as MLflow models as well."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus, Metric
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from orchestrator.disk_space import is_full
from orchestrator.files.contained_paths import contained
from orchestrator.tracking.mlflow_limits import key_of, log
from orchestrator.tracking.mlflow_runs import CHECKPOINT_ARTIFACT, KEY
from orchestrator.tracking.model_folder import ModelFacts, name_model, write_model_folder

_BEST = "best.pt"
_EPOCH = "spatialsweep.epoch"
_MODEL_TYPE = "image-classifier"
_PARAM_LENGTH = 250
_ROOTS = ("sessions", "trials")  # with a folder of stored files for each session and trial
_RETRIED = (401, 408, 429)


def current_path_of(folder: Path, recorded: Path) -> Path:
    """Return the present path of a file of a sweep, whose folder may have been moved since the journal was written.

    Args:
        folder: Folder of the sweep, which may have been moved, copied or renamed.
        recorded: Path in the journal.

    Raises:
        UnsafePathError: The path leads out of the folder, through a link or otherwise.
    """
    parts = recorded.parts
    within = Path(*parts[-3:]) if len(parts) > 2 and parts[-3] in _ROOTS else Path(recorded.name)
    found = contained(folder, within, "file of the journal")
    elsewhere = folder / recorded
    return found if found.exists() or not elsewhere.exists() else contained(folder, elsewhere, "file of the journal")


def client_error_status(error: Exception) -> int | None:
    """Return the HTTP status of a refused request; None where a retry may succeed."""
    if isinstance(error, MlflowException):
        status = error.get_http_status_code()
    else:  # errors of `requests`, which MLflow uses for files
        status = getattr(getattr(error, "response", None), "status_code", 0)
    return status if 400 <= status < 500 and status not in _RETRIED else None


class StoredCheckpoints:
    """Upload and deletion of checkpoints in MLflow; used by the writer thread, which it blocks.

    Files are uploaded from their place. Only the folder of an MLflow model is written to disk first, one at a time, as
    MLflow requires.

    Args:
        client: Client of the server or database.
        tracking_uri: Address of the server or database.
        scratch: Folder for the folders of MLflow models, which the driver clears at its start; None takes the system's
            temporary folder.
    """

    def __init__(self, client: MlflowClient, tracking_uri: str, scratch: Path | None = None) -> None:
        self._client = client
        self._tracking_uri = tracking_uri
        self._scratch = scratch

    def keep(self, path: Path, run_id: str, *, key: str, name: str) -> str | None:
        """Store a checkpoint with a trial's run, and the best weights as an MLflow model as well.

        Args:
            path: Path of the file; in a resumed sweep it may be gone.
            run_id: MLflow id of the trial's run.
            key: Key of the run, see `mlflow_runs.KEY`.
            name: Name of the MLflow model.

        Returns:
            Reason why no MLflow model was created of the best weights; None for success.
        """
        if not path.exists():
            return None
        self._client.log_artifact(run_id, str(path), CHECKPOINT_ARTIFACT)
        if path.name != _BEST:
            return None
        with self._scratch_folder() as place:
            folder = place / "model"
            try:
                facts = write_model_folder(path, folder)
            except Exception as error:  # a retry would fail again and block the other events
                if isinstance(error, OSError) and is_full(error):
                    raise
                return f"{path} becomes no model: {error}"
            self._store_model(folder, facts, run_id, key=key, name=name)
        return None

    @contextlib.contextmanager
    def _scratch_folder(self) -> Iterator[Path]:
        if self._scratch is not None:
            self._scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="spatialsweep-model-", dir=self._scratch) as place:
            yield Path(place)
        if self._scratch is not None:
            with contextlib.suppress(OSError):  # another process uses it
                self._scratch.rmdir()

    def drop(self, file: str, run_id: str, *, key: str) -> str | None:
        """Delete a checkpoint from a trial's run, with its MLflow model unless that is registered.

        Args:
            file: Name of the file.
            run_id: MLflow id of the trial's run.
            key: Key of the run, see `mlflow_runs.KEY`.

        Returns:
            Reason why it was not deleted, such as rights to write but not to delete; None for success.
        """
        try:
            self._drop(file, run_id, key=key)
        except Exception as error:
            if not client_error_status(error):
                raise
            return f"{CHECKPOINT_ARTIFACT}/{file} of run {run_id} stays: {error}"
        return None

    def _drop(self, file: str, run_id: str, *, key: str) -> None:
        artifacts = get_artifact_repository(self._client.get_run(run_id).info.artifact_uri, self._tracking_uri)
        if any(
            found.path == f"{CHECKPOINT_ARTIFACT}/{file}" for found in artifacts.list_artifacts(CHECKPOINT_ARTIFACT)
        ):
            artifacts.delete_artifacts(f"{CHECKPOINT_ARTIFACT}/{file}")
        model = find_model(self._client, run_id, key) if file == _BEST else None
        if model is not None:
            self._delete_unregistered(model)

    def _delete_unregistered(self, model: LoggedModel) -> None:
        """Delete an MLflow model unless it is registered; a refusal, as for lack of rights, is ignored."""
        if versions_of(self._client, model):
            return
        try:
            self._client.delete_logged_model(model.model_id)
        except MlflowException as error:
            if not client_error_status(error):
                raise

    def _store_model(self, folder: Path, facts: ModelFacts, run_id: str, *, key: str, name: str) -> None:
        """Upload an MLflow model once; an interrupted upload is completed."""
        model = find_model(self._client, run_id, key)
        if model is not None and model.tags.get(_EPOCH) != str(facts.epoch):
            self._delete_unregistered(model)
            model = None  # the trial has found better weights since
        if model is None:
            model = self._create_model(facts, run_id, key=key, name=name)
        self._link(model, facts, run_id)
        if model.status != LoggedModelStatus.READY:
            name_model(folder, model.model_id, run_id)
            self._client.log_model_artifacts(model.model_id, str(folder))
            self._client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)

    def _create_model(self, facts: ModelFacts, run_id: str, *, key: str, name: str) -> LoggedModel:
        return self._client.create_logged_model(
            self._client.get_run(run_id).info.experiment_id,
            name=name,
            source_run_id=run_id,
            tags={KEY: key, _EPOCH: str(facts.epoch)},
            params={
                "model": facts.name,
                **{option: str(value)[:_PARAM_LENGTH] for option, value in facts.options.items()},
            },
            model_type=_MODEL_TYPE,
        )

    def _link(self, model: LoggedModel, facts: ModelFacts, run_id: str) -> None:
        """Link an MLflow model to its run and to the metrics of its epoch, with the times of their reports."""
        outputs = self._client.get_run(run_id).outputs
        if all(output.model_id != model.model_id for output in (outputs.model_outputs if outputs else [])):
            self._client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=facts.epoch)])
        names = sorted(facts.metrics)
        history = self._client.get_metric_history(run_id, key_of(names[0])) if names else []
        times = [point.timestamp for point in history if point.step == facts.epoch]
        if times:
            metrics = [
                Metric(key_of(key), facts.metrics[key], times[-1], facts.epoch, model.model_id, run_id=run_id)
                for key in names
            ]
            log(self._client, run_id, metrics=metrics)


def find_model(client: MlflowClient, run_id: str, key: str) -> LoggedModel | None:
    """Return the newest MLflow model of a trial; None where there is none.

    Args:
        client: Client of the server or database.
        run_id: MLflow id of the trial's run.
        key: Key of the run, see `mlflow_runs.KEY`.
    """
    experiment = client.get_run(run_id).info.experiment_id
    newest = [{"field_name": "creation_timestamp", "ascending": False}]
    found = client.search_logged_models([experiment], f"tags.`{KEY}` = '{key}'", max_results=1, order_by=newest)
    return found[0] if found else None


def versions_of(client: MlflowClient, model: LoggedModel) -> list[ModelVersion]:
    """Return the versions in the model registry that refer to an MLflow model."""
    found = client.search_model_versions(f"run_id = '{model.source_run_id}'")
    return [version for version in found if version.source == model.artifact_location]  # the search returns no model_id
