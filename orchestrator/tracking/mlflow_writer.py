"""Carries the journal into MLflow. The only module that imports mlflow.

The reports of a trial within a batch travel in one request. A batch is repeated until the server has taken it: metrics
carry the journal's own times, which makes that harmless, and runs that may exist are looked up before they are made,
all of a sweep at once.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag, ViewType
from mlflow.exceptions import MlflowException

from orchestrator.errors import CheckpointError, TrackingError
from orchestrator.tracking.addresses import SQLITE, without_password
from orchestrator.tracking.flat_settings import flatten
from orchestrator.tracking.journal_follower import JournalFollower

CHECKPOINT_ARTIFACT = "checkpoint"
_KEY = "spatialsweep.key"
_SWEEP_KEYS = ("sweep", "experiment", "name", "uid")
_RUN_STATUS = {
    "finished": "FINISHED",
    "pruned": "KILLED",
    "diverged": "KILLED",
    "failed": "FAILED",
    "interrupted": "KILLED",
}
_PARAM_LENGTH = 6_000
_TAG_LENGTH = 5_000
_PARAMS_PER_REQUEST = 100
_METRICS_PER_REQUEST = 1_000
_RUNS_PER_PAGE = 1_000
_INVALID = (400, 409, 413, 422)


class MlflowWriter(JournalFollower):
    """Follows a journal into MLflow.

    Args:
        journal: The file to follow.
        tracking_uri: Of the server or database.
        experiment: Name of the experiment; made when absent.
        artifacts: Folder for artifacts when the URI is a database rather than a server.
    """

    def __init__(self, journal: Path, *, tracking_uri: str, experiment: str, artifacts: Path) -> None:
        super().__init__(journal, without_password(tracking_uri))
        self.tracking_uri = tracking_uri
        self._experiment = experiment
        self._artifacts = artifacts
        self._client: MlflowClient | None = None
        self._runs: dict[str, str] = {}
        self._existing: dict[str, str] | None = {}  # runs by our key, made before this writer was; None is unknown
        self._front: set[int] = set()

    @property
    def public_uri(self) -> str:
        """The tracking URI without a password."""
        return self._target

    @property
    def sweep_run_id(self) -> str | None:
        """Id of the parent run, once it exists."""
        return self._runs.get("sweep")

    def run_id(self, trial: int) -> str | None:
        """Id of a trial's run, once it exists."""
        return self._runs.get(f"trial-{trial}")

    def _connect(self) -> None:
        self._client = MlflowClient(self.tracking_uri)

    def _remember(self) -> Mapping[str, Any]:
        return {key: self._runs[key] for key in _SWEEP_KEYS} | {"front": sorted(self._front)}

    def _recall(self, memory: Mapping[str, Any]) -> bool:
        client = self._connected()
        try:
            client.get_run(memory["sweep"])
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False
        self._runs, self._front = {key: memory[key] for key in _SWEEP_KEYS}, set(memory["front"])
        self._existing = None
        for key, run_id in self._existing_runs(client).items():
            self._runs[f"trial-{key.rpartition('/')[2]}"] = run_id
        return True

    def _take(self, events: Sequence[Mapping[str, Any]]) -> None:
        try:
            self._replay_batch(self._connected(), events)
        except Exception:
            self._existing = None  # a request whose answer was lost may have made a run
            raise

    def _connected(self) -> MlflowClient:
        if self._client is None:
            self._connect()
        assert self._client is not None
        return self._client

    def _replay_batch(self, client: MlflowClient, events: Sequence[Mapping[str, Any]]) -> None:
        """Replays events in their order, but for reports, which wait for others of their trial up to its end."""
        reports: dict[int, list[Mapping[str, Any]]] = {}
        for event in events:
            if event["event"] == "trial_reported":
                reports.setdefault(event["trial"], []).append(event)
                continue
            if event["event"] == "trial_ended":
                self._replay_reports(client, reports.pop(event["trial"], []))
            self._replay_or_refuse(client, event)
        for waiting in reports.values():
            self._replay_reports(client, waiting)

    def _replay_reports(self, client: MlflowClient, reports: Sequence[Mapping[str, Any]]) -> None:
        """Sends the reports of a trial together, or one by one where the server finds fault with any."""
        try:
            self._log_metrics(client, reports)
        except MlflowException as error:
            if error.get_http_status_code() not in _INVALID:
                raise
            for report in reports:
                self._replay_or_refuse(client, report)

    def _replay_or_refuse(self, client: MlflowClient, event: Mapping[str, Any]) -> None:
        """Replays an event; one that the server calls invalid is noted and left out, for it would block all others."""
        try:
            self._replay(client, event)
        except MlflowException as error:
            status = error.get_http_status_code()
            if status not in _INVALID:
                raise
            self.refused.append(f"{event['event']}: {error.message}")

    def _replay(self, client: MlflowClient, event: Mapping[str, Any]) -> None:
        handlers: dict[str, Callable[[MlflowClient, Mapping[str, Any]], None]] = {
            "sweep_started": self._start_sweep,
            "lanes_planned": self._note_lanes,
            "sweep_resumed": self._resume_sweep,
            "trial_started": self._start_trial,
            "trial_resumed": self._resume_trial,
            "trial_changed": self._note_change,
            "trial_reported": lambda client, event: self._log_metrics(client, [event]),
            "trial_ended": self._end_trial,
            "checkpoint_kept": self._store_checkpoint,
            "front_found": self._mark_front,
            "sweep_ended": self._end_sweep,
        }
        if event["event"] in handlers:  # others are told again at the sweep's end
            handlers[event["event"]](client, event)

    def _start_sweep(self, client: MlflowClient, event: Mapping[str, Any]) -> None:
        experiment = self._experiment_id(client)
        tags = {"spatialsweep.kind": "sweep", "spatialsweep.sweep": event["name"], **event["facts"]}
        found = client.search_runs([experiment], f"tags.`{_KEY}` = '{event['uid']}'", ViewType.ALL, max_results=1)
        if found:
            run_id, self._existing = str(found[0].info.run_id), None
        else:
            run_id = _create_run(client, experiment, key=event["uid"], name=event["name"], event=event, tags=tags)
        self._runs |= {"sweep": run_id, "experiment": experiment, "name": event["name"], "uid": event["uid"]}
        _log_params(client, run_id, flatten(event["config"]))

    def _note_lanes(self, client: MlflowClient, event: Mapping[str, Any]) -> None:
        plan = {key: value for key, value in event.items() if key not in ("event", "time")}
        tags = [RunTag(f"spatialsweep.{key}", f"{value:g}") for key, value in plan.items()]
        client.log_batch(self._runs["sweep"], tags=tags)

    def _start_trial(self, client: MlflowClient, event: Mapping[str, Any]) -> None:
        number, sweep = event["trial"], self._runs["name"]
        tags = {
            "mlflow.parentRunId": self._runs["sweep"],
            "spatialsweep.kind": "trial",
            "spatialsweep.sweep": sweep,
            "spatialsweep.status": "running",
            "spatialsweep.optuna_trial": str(number),
            "spatialsweep.tune_trial": event["tune_id"],
        }
        key, name = f"{self._runs['uid']}/{number}", f"{sweep}/trial-{number:05d}"
        run_id = self._runs.get(f"trial-{number}") or self._existing_runs(client).get(key)
        if run_id is None:
            run_id = _create_run(client, self._runs["experiment"], key=key, name=name, event=event, tags=tags)
        self._runs[f"trial-{number}"] = run_id
        _log_params(client, run_id, {**flatten(event["config"]), **dict(event["params"])})

    def _resume_sweep(self, client: MlflowClient, event: Mapping[str, Any]) -> None:
        client.update_run(self._runs["sweep"], status="RUNNING")
        tags = [RunTag("spatialsweep.status", "running"), *(RunTag(key, text) for key, text in event["facts"].items())]
        client.log_batch(self._runs["sweep"], tags=tags)

    def _resume_trial(self, client: MlflowClient, event: Mapping[str, Any]) -> None:
        run_id = self._runs[f"trial-{event['trial']}"]
        client.update_run(run_id, status="RUNNING")
        tags = {"spatialsweep.status": "running", "spatialsweep.tune_trial": event["tune_id"]}
        client.log_batch(run_id, tags=[RunTag(key, text) for key, text in tags.items()])

    def _log_metrics(self, client: MlflowClient, reports: Sequence[Mapping[str, Any]]) -> None:
        """Sends reports of one trial."""
        metrics = [
            Metric(key, float(value), _milliseconds(report["time"]), report["epoch"])
            for report in reports
            for key, value in report["metrics"].items()
        ]
        for start in range(0, len(metrics), _METRICS_PER_REQUEST):
            run_id = self._runs[f"trial-{reports[0]['trial']}"]
            client.log_batch(run_id, metrics=metrics[start : start + _METRICS_PER_REQUEST])

    def _note_change(self, client: MlflowClient, event: Mapping[str, Any]) -> None:
        """The settings a trial goes on with, as metrics; its parameters stay those it was begun with."""
        settings = {**event["config"]["training"], **event["config"]["model"]["options"]}
        numbers = {name: settings[name] for name in ("lr", "weight_decay", "span_penalty") if name in settings}
        metrics = [
            Metric(f"pbt/{name}", float(value), _milliseconds(event["time"]), event["epoch"])
            for name, value in {**numbers, "donor": event["donor"]}.items()
        ]
        client.log_batch(self._runs[f"trial-{event['trial']}"], metrics=metrics)

    def _end_trial(self, client: MlflowClient, event: Mapping[str, Any]) -> None:
        run_id = self._runs[f"trial-{event['trial']}"]
        tags = [RunTag("spatialsweep.status", event["status"])]
        if event["reason"]:
            tags.append(RunTag("spatialsweep.reason", event["reason"][:_TAG_LENGTH]))
            tags.append(RunTag("mlflow.note.content", f"```\n{event['reason'][: _TAG_LENGTH - 10]}\n```"))
        timestamp = _milliseconds(event["time"])
        cost = [Metric(f"cost/{key}", value, timestamp, 0) for key, value in event.get("cost", {}).items()]
        client.log_batch(run_id, metrics=cost, tags=tags)
        client.set_terminated(run_id, _RUN_STATUS[event["status"]], timestamp)

    def _store_checkpoint(self, client: MlflowClient, event: Mapping[str, Any]) -> None:
        if Path(event["path"]).exists():  # in a resumed sweep better ones may have taken its place
            client.log_artifact(self._runs[f"trial-{event['trial']}"], event["path"], CHECKPOINT_ARTIFACT)

    def _mark_front(self, client: MlflowClient, event: Mapping[str, Any]) -> None:
        """Tags the trials of the Pareto front, and those that an earlier session had found there."""
        for number in {*self._front, *event["trials"]}:
            on_front = "true" if number in event["trials"] else "false"
            client.set_tag(self._runs[f"trial-{number}"], "spatialsweep.pareto_front", on_front)
        self._front = set(event["trials"])

    def _end_sweep(self, client: MlflowClient, event: Mapping[str, Any]) -> None:
        run_id, timestamp = self._runs["sweep"], _milliseconds(event["time"])
        numbers = {key: value for key, value in event["summary"].items() if isinstance(value, (int, float))}
        client.log_batch(
            run_id,
            metrics=[Metric(key, float(value), timestamp, 0) for key, value in numbers.items()],
            tags=[
                RunTag("spatialsweep.status", event["status"]),
                *(RunTag(f"spatialsweep.{key}", str(value)) for key, value in event["summary"].items()),
            ],
        )
        for path in event["files"]:
            client.log_artifact(run_id, path, "results")
        client.set_terminated(run_id, _RUN_STATUS[event["status"]], timestamp)

    def _experiment_id(self, client: MlflowClient) -> str:
        experiment = client.get_experiment_by_name(self._experiment)
        if experiment is not None:
            return str(experiment.experiment_id)
        on_server = urlparse(self.tracking_uri).scheme in ("http", "https", "databricks")
        location = None if on_server else self._artifacts.resolve().as_uri()
        return str(client.create_experiment(self._experiment, artifact_location=location))

    def _existing_runs(self, client: MlflowClient) -> Mapping[str, str]:
        """Runs of this sweep's trials that an earlier writer, or a request whose answer was lost, has made."""
        if self._existing is None:
            found: dict[str, str] = {}
            token: str | None = None
            query = f"tags.`mlflow.parentRunId` = '{self._runs['sweep']}'"
            while token is None or token:
                page = client.search_runs([self._runs["experiment"]], query, ViewType.ALL, page_token=token)
                found |= {run.data.tags[_KEY]: str(run.info.run_id) for run in page if _KEY in run.data.tags}
                token = page.token or ""
            self._existing = found
        return self._existing


def _create_run(
    client: MlflowClient, experiment: str, *, key: str, name: str, event: Mapping[str, Any], tags: Mapping[str, str]
) -> str:
    run = client.create_run(
        experiment, start_time=_milliseconds(event["time"]), tags={**tags, _KEY: key}, run_name=name
    )
    return str(run.info.run_id)


def fetch_checkpoint(run_id: str, tracking_uri: str, folder: Path) -> Path:
    """Downloads the checkpoint a trial's run holds.

    Args:
        run_id: MLflow id of the trial's run.
        tracking_uri: Where the run is recorded.
        folder: Target.

    Raises:
        CheckpointError: There is no such run, or it holds no checkpoint (only the best trials do).
    """
    client = MlflowClient(tracking_uri)
    try:
        files = client.list_artifacts(run_id, CHECKPOINT_ARTIFACT)
    except MlflowException as error:
        raise CheckpointError(f"MLflow at {tracking_uri} has no run '{run_id}' ({error.message})") from None
    if not files:
        raise CheckpointError(f"run '{run_id}' holds no checkpoint; a sweep keeps those of its best trials only")
    return Path(client.download_artifacts(run_id, files[0].path, str(folder)))


@dataclass(frozen=True)
class RecordedRun:
    """What MLflow knows of a trial.

    Args:
        name: Of its run.
        sweep_params: Settings of its sweep, by their dotted names; empty where it has none.
        reports: Metrics of every epoch.
    """

    name: str
    sweep_params: Mapping[str, str]
    reports: Mapping[int, Mapping[str, float]]


def read_run(run_id: str, tracking_uri: str) -> RecordedRun:
    """Reads the run of a trial.

    Raises:
        CheckpointError: There is no such run, or the server does not answer.
    """
    client = MlflowClient(tracking_uri)
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
    """Stores the files of a folder as artifacts of a run.

    Raises:
        TrackingError: The server does not answer, or refuses.
    """
    try:
        MlflowClient(tracking_uri).log_artifacts(run_id, str(folder), artifact_path)
    except (MlflowException, OSError) as error:
        raise TrackingError(f"MLflow at {without_password(tracking_uri)} takes no files: {error}") from None


def sweep_runs(uid: str, tracking_uri: str) -> list[str]:
    """Ids of the MLflow runs of a sweep and of its trials, deleted ones left out.

    Args:
        uid: Of the sweep.
        tracking_uri: Where they are recorded.

    Raises:
        TrackingError: The server does not answer, or refuses.
    """
    try:
        client = MlflowClient(tracking_uri)
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        found = client.search_runs(experiments, f"tags.`{_KEY}` LIKE '{uid}%'", max_results=_RUNS_PER_PAGE)
        runs = [run.info.run_id for run in found]
        while found.token:
            found = client.search_runs(
                experiments, f"tags.`{_KEY}` LIKE '{uid}%'", max_results=_RUNS_PER_PAGE, page_token=found.token
            )
            runs += [run.info.run_id for run in found]
    except MlflowException as error:
        raise TrackingError(f"MLflow at {without_password(tracking_uri)} does not list its runs: {error}") from None
    return runs


def store_beside_results(path: Path, uid: str, tracking_uri: str) -> str:
    """Adds a file to the artifacts of a sweep's run, under `results`; one of its name is replaced.

    Args:
        path: The file.
        uid: Of the sweep.
        tracking_uri: Where the sweep is recorded.

    Returns:
        Id of the run.

    Raises:
        TrackingError: The server does not answer, or has no run of this sweep.
    """
    shown, database = without_password(tracking_uri), tracking_uri.partition(SQLITE)[2]
    if database and not Path(database).exists():  # MLflow would make one
        raise TrackingError(f"there is no {shown}")
    try:
        client = MlflowClient(tracking_uri)
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        found = client.search_runs(experiments, f"tags.`{_KEY}` = '{uid}'", max_results=1)
        if not found:
            raise TrackingError(f"MLflow at {shown} has no run of this sweep; `spatialsweep sync` sends it")
        client.log_artifact(found[0].info.run_id, str(path), "results")
    except (MlflowException, OSError) as error:
        raise TrackingError(f"MLflow at {shown} takes no file: {error}") from None
    return str(found[0].info.run_id)


def delete_runs(runs: Iterable[str], tracking_uri: str) -> None:
    """Marks runs as deleted, as MLflow does: `mlflow gc` removes them, `mlflow runs restore` brings them back.

    Raises:
        TrackingError: The server does not answer, or refuses.
    """
    try:
        client = MlflowClient(tracking_uri)
        for run in runs:
            client.delete_run(run)
    except MlflowException as error:
        raise TrackingError(f"MLflow at {without_password(tracking_uri)} keeps its runs: {error}") from None


def silence() -> None:
    """Keeps MLflow's own notices out of a sweep's output."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _log_params(client: MlflowClient, run_id: str, params: Mapping[str, Any]) -> None:
    rows = [Param(key, str(value)[:_PARAM_LENGTH]) for key, value in params.items()]
    for start in range(0, len(rows), _PARAMS_PER_REQUEST):
        client.log_batch(run_id, params=rows[start : start + _PARAMS_PER_REQUEST])


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)
