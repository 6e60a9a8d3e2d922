"""Runs of a sweep that exist in MLflow: search, reading, and additional artifacts."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlparse

from mlflow import MlflowClient
from mlflow.entities import Experiment, LifecycleStage, Run, ViewType
from mlflow.exceptions import MlflowException

from orchestrator.errors import CheckpointError, TrackingError
from orchestrator.files.sqlite_files import is_missing_file
from orchestrator.tracking.mlflow_client import open_client, silence_mlflow
from orchestrator.uris import without_password

CHECKPOINT_ARTIFACT = "checkpoint"
KEY = "spatialsweep.key"
"""Tag that identifies a run: the uid of a sweep, or `<uid>/<number>` of a trial."""

SWEEP = "spatialsweep.sweep"
"""Tag with the name of a run's sweep."""

_BEST = "best.pt"
_UID = re.compile(r"[0-9a-f]{32}")
_RUNS_PER_PAGE = 1_000


def search_all(client: MlflowClient, experiments: Sequence[str], query: str, view: int) -> Iterator[Run]:
    """Yield every run that a search finds, page by page."""
    token: str | None = None
    while token is None or token:
        page = client.search_runs(list(experiments), query, view, max_results=_RUNS_PER_PAGE, page_token=token or None)
        yield from page
        token = page.token or ""


def experiment_id(client: MlflowClient, name: str, *, tracking_uri: str, artifacts: Path) -> str:
    """Return the id of an experiment, which is created where it is absent.

    Args:
        client: Client of the server or database.
        name: Name of the experiment.
        tracking_uri: Address of the server or database.
        artifacts: Folder for artifacts where the address is a database.

    Raises:
        TrackingError: The experiment was deleted.
    """
    experiment = client.get_experiment_by_name(name)
    if experiment is not None:
        _require_active(experiment)
        return str(experiment.experiment_id)
    on_server = urlparse(tracking_uri).scheme in ("http", "https", "databricks")
    location = None if on_server else artifacts.resolve().as_uri()
    return str(client.create_experiment(name, artifact_location=location))


def runs_by_key(client: MlflowClient, experiment: str, query: str, held: Collection[str] = ()) -> dict[str, str]:
    """Return the ids of the runs that a search finds, deleted or not, by key; a second, empty run of a key is deleted.

    A request to create a run may arrive after its sender has given it up, has found no run, and has created another.
    Nothing was ever written to one of the two; the other is returned.

    Args:
        client: Client of the server or database.
        experiment: Id of the experiment.
        query: Filter of the search.
        held: Ids of the runs that this process writes to.
    """
    found: dict[str, list[Run]] = defaultdict(list)
    for run in search_all(client, [experiment], query, ViewType.ALL):
        if KEY in run.data.tags:
            found[run.data.tags[KEY]].append(run)
    chosen = {}
    for key, runs in found.items():
        first, *others = sorted(
            runs, key=lambda run: (run.info.run_id not in held, _is_empty(run), _is_deleted(run), run.info.run_id)
        )
        chosen[key] = str(first.info.run_id)
        for other in others:
            if _is_empty(other) and not _is_deleted(other):
                _delete_if_allowed(client, other.info.run_id)
    return chosen


def find_run(client: MlflowClient, experiment: str, key: str, held: Collection[str] = ()) -> str | None:
    """Return the id of the run with a key as `runs_by_key` does; None where there is none."""
    return runs_by_key(client, experiment, f"tags.`{KEY}` = '{key}'", held).get(key)


def _is_empty(run: Run) -> bool:
    return not (run.data.params or run.data.metrics)


def _delete_if_allowed(client: MlflowClient, run_id: str) -> None:
    """Delete a run; it stays where the user may write to the experiment and not delete in it."""
    try:
        client.delete_run(run_id)
    except MlflowException as error:
        if error.get_http_status_code() != HTTPStatus.FORBIDDEN:
            raise


def _is_deleted(run: Run) -> bool:
    return bool(run.info.lifecycle_stage == LifecycleStage.DELETED)


def require_run(client: MlflowClient, run_id: str) -> None:
    """Check that a sweep's run and its experiment are not deleted: MLflow accepts nothing for a deleted run.

    Raises:
        TrackingError: One of them was deleted; the message names the command that restores it.
        MlflowException: There is no such run, or the server does not answer.
    """
    run = client.get_run(run_id)
    _require_active(client.get_experiment(run.info.experiment_id))
    if _is_deleted(run):
        raise TrackingError(
            f"the run {run_id} of this sweep was deleted in MLflow; `mlflow runs restore --run-id {run_id}` brings it "
            "back"
        )


def _require_active(experiment: Experiment) -> None:
    if experiment.lifecycle_stage == LifecycleStage.DELETED:
        number = experiment.experiment_id
        raise TrackingError(
            f"the experiment '{experiment.name}' was deleted in MLflow. Bring it back with `mlflow experiments restore "
            f"--experiment-id {number}`, or name another with `--set tracking.experiment=NAME`"
        )


def fetch_checkpoint(run_id: str, tracking_uri: str, folder: Path) -> Path:
    """Download the best weights of a trial's run and return the path of the file; blocks.

    Args:
        run_id: MLflow id of the trial's run.
        tracking_uri: Address of the server or database.
        folder: Target folder.

    Raises:
        CheckpointError: There is no such run, or it holds no checkpoint (only the best trials do).
        TrackingError: The server does not answer.
    """
    silence_mlflow()
    client = open_client(tracking_uri)
    try:
        files = [file.path for file in client.list_artifacts(run_id, CHECKPOINT_ARTIFACT)]
    except MlflowException as error:
        raise CheckpointError(f"MLflow at {tracking_uri} has no run '{run_id}' ({error.message})") from None
    best = f"{CHECKPOINT_ARTIFACT}/{_BEST}"
    if best not in files:
        raise CheckpointError(f"run '{run_id}' holds no checkpoint; a sweep keeps those of its best trials only")
    return Path(client.download_artifacts(run_id, best, str(folder)))


@dataclass(frozen=True)
class RecordedRun:
    """Run of a trial as MLflow stores it.

    Args:
        name: Name of the run.
        sweep_params: Settings of the sweep by dotted name; empty for a run without a sweep.
        reports: Metrics of every epoch, by epoch.
    """

    name: str
    sweep_params: Mapping[str, str]
    reports: Mapping[int, Mapping[str, float]]


def read_run(run_id: str, tracking_uri: str) -> RecordedRun:
    """Read the run of a trial.

    Raises:
        CheckpointError: There is no such run.
        TrackingError: The server does not answer.
    """
    client = open_client(tracking_uri)
    try:
        run = client.get_run(run_id)
        reports: dict[int, dict[str, float]] = {}
        for key in run.data.metrics:
            for metric in client.get_metric_history(run_id, key):
                reports.setdefault(metric.step, {})[key] = metric.value
        parent = run.data.tags.get("mlflow.parentRunId")
        params = client.get_run(parent).data.params if parent else {}
    except MlflowException as error:
        where = without_password(tracking_uri)
        raise CheckpointError(f"MLflow at {where} has no run '{run_id}' ({error.message})") from None
    epochs = {step: metrics for step, metrics in sorted(reports.items()) if step > 0}
    return RecordedRun(run.info.run_name or run_id, params, epochs)


def log_folder(run_id: str, folder: Path, artifact_path: str, tracking_uri: str) -> None:
    """Store the files of a folder as artifacts of a run.

    Raises:
        TrackingError: The server does not answer, or refuses.
    """
    try:
        open_client(tracking_uri).log_artifacts(run_id, str(folder), artifact_path)
    except (MlflowException, OSError) as error:
        raise TrackingError(f"MLflow at {without_password(tracking_uri)} takes no files: {error}") from None


def sweep_runs(uid: str, name: str, tracking_uri: str) -> list[str]:
    """Return the ids of the MLflow runs of a sweep and of its trials, deleted ones left out.

    Args:
        uid: Id of the sweep, 32 hexadecimal digits.
        name: Name of the sweep, which every run of it has as a tag.
        tracking_uri: Address of the server or database.

    Raises:
        TrackingError: The id is invalid, or the server does not answer or refuses.
    """
    if not _UID.fullmatch(uid):
        raise TrackingError(f"'{uid}' is no id of a sweep (32 hexadecimal digits)")
    own = re.compile(rf"{uid}(?:/c?\d+)?")
    try:
        client = open_client(tracking_uri)
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        found = search_all(client, experiments, f"tags.`{KEY}` LIKE '{uid}%'", ViewType.ACTIVE_ONLY)
        tags = ((str(run.info.run_id), run.data.tags) for run in found)
        return [run for run, of in tags if own.fullmatch(of.get(KEY, "")) and of.get(SWEEP) == name]
    except MlflowException as error:
        raise TrackingError(f"MLflow at {without_password(tracking_uri)} does not list its runs: {error}") from None


def store_result_file(path: Path, uid: str, tracking_uri: str) -> str:
    """Add a file to the artifacts of a sweep's run, under `results`, where it replaces a file of the same name.

    Args:
        path: Path of the file.
        uid: Id of the sweep.
        tracking_uri: Address of the server or database.

    Returns:
        MLflow id of the run.

    Raises:
        TrackingError: The server does not answer, or has no run of this sweep.
    """
    shown = without_password(tracking_uri)
    if is_missing_file(tracking_uri):  # MLflow would create it
        raise TrackingError(f"there is no {shown}")
    try:
        client = open_client(tracking_uri)
        run = _sweep_run(client, uid, tracking_uri)
        client.log_artifact(run.info.run_id, str(path), "results")
    except (MlflowException, OSError) as error:
        raise TrackingError(f"MLflow at {shown} takes no file: {error}") from None
    return str(run.info.run_id)


def run_page(uid: str, tracking_uri: str) -> str:
    """Return the page of a sweep's run, relative to the root of MLflow's pages.

    Args:
        uid: Id of the sweep.
        tracking_uri: Address of the server or database.

    Raises:
        TrackingError: The server does not answer, or has no run of this sweep.
    """
    run = _sweep_run(open_client(tracking_uri), uid, tracking_uri)
    return f"#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"


def _sweep_run(client: MlflowClient, uid: str, tracking_uri: str) -> Run:
    shown = without_password(tracking_uri)
    try:
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        found = client.search_runs(experiments, f"tags.`{KEY}` = '{uid}'", max_results=1)
    except MlflowException as error:
        raise TrackingError(f"MLflow at {shown} does not answer: {error.message}") from None
    if not found:
        raise TrackingError(f"MLflow at {shown} has no run of this sweep; `spatialsweep sync` sends it")
    return found[0]
