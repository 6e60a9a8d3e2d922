"""Checkpoints of a sweep in MLflow: the files as artifacts of their trials, the best weights as models as well."""

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
_ROOTS = ("sessions", "trials")  # hold a folder for each session and trial, with files that are stored
_TRY_AGAIN = (401, 408, 429)


def current_path_of(folder: Path, recorded: Path) -> Path:
    """Return where a file of a sweep lies in the sweep's folder, whatever place the journal names.

    Args:
        folder: Folder of the sweep, which may have been moved, copied or renamed.
        recorded: Path that the journal names.

    Raises:
        UnsafePathError: It leads out of the folder, through a link or otherwise.
    """
    parts = recorded.parts
    within = Path(*parts[-3:]) if len(parts) > 2 and parts[-3] in _ROOTS else Path(recorded.name)
    found = contained(folder, within, "file of the journal")
    elsewhere = folder / recorded
    return found if found.exists() or not elsewhere.exists() else contained(folder, elsewhere, "file of the journal")


def refusal(error: Exception) -> int | None:
    """The status of a server that has understood and says no; None where another attempt may do."""
    if isinstance(error, MlflowException):
        status = error.get_http_status_code()
    else:  # of requests, which MLflow uses for files
        status = getattr(getattr(error, "response", None), "status_code", 0)
    return status if 400 <= status < 500 and status not in _TRY_AGAIN else None


class StoredCheckpoints:
    """Puts checkpoints into MLflow and takes them out.

    A file goes up from where it lies. Only the folder of a model is written here first, one at a time, for MLflow has
    no other way to make one.

    Args:
        client: Of the server or database.
        tracking_uri: Of the same.
        scratch: Where a model's folder is written; what a process that was killed has left there, somebody clears. None
            takes the system's own.
    """

    def __init__(self, client: MlflowClient, tracking_uri: str, scratch: Path | None = None) -> None:
        self._client = client
        self._tracking_uri = tracking_uri
        self._scratch = scratch

    def keep(self, path: Path, run_id: str, *, key: str, name: str) -> str | None:
        """Stores a checkpoint with a trial's run, and makes a model of one that holds the best weights.

        Args:
            path: Of the file; in a resumed sweep others may have taken its place.
            run_id: Of the trial.
            key: What the run stands for.
            name: Of the model.

        Returns:
            Why the file is no model; None where all is well.
        """
        if not path.exists():
            return None
        self._client.log_artifact(run_id, str(path), CHECKPOINT_ARTIFACT)
        if path.name != _BEST:
            return None
        with self._place() as place:
            folder = place / "model"
            try:
                facts = write_model_folder(path, folder)
            except Exception as error:  # another attempt would find the same, and others wait
                if isinstance(error, OSError) and is_full(error):
                    raise
                return f"{path} becomes no model: {error}"
            self._store_model(folder, facts, run_id, key=key, name=name)
        return None

    @contextlib.contextmanager
    def _place(self) -> Iterator[Path]:
        if self._scratch is not None:
            self._scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="spatialsweep-model-", dir=self._scratch) as place:
            yield Path(place)
        if self._scratch is not None:
            with contextlib.suppress(OSError):  # others have something there
                self._scratch.rmdir()

    def drop(self, file: str, run_id: str, *, key: str) -> str | None:
        """Takes a checkpoint out of a trial's run, and its model, unless that is in the registry.

        Returns:
            Why it stays, such as rights to write but not to delete; None where it went.
        """
        try:
            self._drop(file, run_id, key=key)
        except Exception as error:
            if not refusal(error):
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
            self._discard(model)

    def _discard(self, model: LoggedModel) -> None:
        """Deletes a model that nobody has registered; who may write but not delete leaves it."""
        if versions_of(self._client, model):
            return
        try:
            self._client.delete_logged_model(model.model_id)
        except MlflowException as error:
            if not refusal(error):
                raise

    def _store_model(self, folder: Path, facts: ModelFacts, run_id: str, *, key: str, name: str) -> None:
        """Uploads a model, once; one whose upload was cut short is completed."""
        model = find_model(self._client, run_id, key)
        if model is not None and model.tags.get(_EPOCH) != str(facts.epoch):
            self._discard(model)
            model = None  # the trial went on and has better weights now
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
        """Ties a model to its run and to the metrics of its epoch, which keep the time they were reported at."""
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
    """The newest model of a trial; None where there is none.

    Args:
        client: Of the server or database.
        run_id: Of the trial.
        key: What the run stands for.
    """
    experiment = client.get_run(run_id).info.experiment_id
    newest = [{"field_name": "creation_timestamp", "ascending": False}]
    found = client.search_logged_models([experiment], f"tags.`{KEY}` = '{key}'", max_results=1, order_by=newest)
    return found[0] if found else None


def versions_of(client: MlflowClient, model: LoggedModel) -> list[ModelVersion]:
    """The versions in the model registry that refer to a model."""
    found = client.search_model_versions(f"run_id = '{model.source_run_id}'")
    return [version for version in found if version.source == model.artifact_location]  # model_id is not told
