"""Translation of the events of a sweep's journal into MLflow runs, metrics, tags and artifacts (docs/tracking.md)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired

from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from orchestrator.errors import UnsafePathError
from orchestrator.records.events import (
    CheckpointDropped,
    CheckpointKept,
    ConfigurationMeasured,
    Event,
    FrontFound,
    LanesPlanned,
    SessionDescribed,
    SettingsChanged,
    SweepEnded,
    SweepResumed,
    SweepStarted,
    TrialChanged,
    TrialEnded,
    TrialPaused,
    TrialProgressed,
    TrialReported,
    TrialResumed,
    TrialStarted,
)
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.records.folder.trial_folder import LOG_SUFFIX, PICTURES, trial_folder, trial_pictures
from orchestrator.tracking.flat_settings import flatten
from orchestrator.tracking.mlflow_datasets import dataset_input
from orchestrator.tracking.mlflow_limits import cut, log, metric, param, tag
from orchestrator.tracking.mlflow_runs import KEY, experiment_id, find_run, require_run, runs_by_key
from orchestrator.tracking.stored_checkpoints import StoredCheckpoints, current_path_of
from orchestrator.uris import without_secrets

_OfTrial = (
    TrialResumed
    | TrialChanged
    | TrialReported
    | TrialProgressed
    | TrialPaused
    | TrialEnded
    | CheckpointKept
    | CheckpointDropped
)

RUN_STATUS = {
    "finished": "FINISHED",
    "pruned": "KILLED",
    "diverged": "KILLED",
    "failed": "FAILED",
    "interrupted": "KILLED",
    "paused": "KILLED",
}


class _Snapshot(TypedDict):
    """State that a recorder passes to the recorder of a later session."""

    sweep: str
    experiment: str
    name: str
    uid: str
    front: list[int]
    dataset: NotRequired[dict[str, Any] | None]


_SNAPSHOT: TypeAdapter[_Snapshot] = TypeAdapter(_Snapshot)
_SWEEP_KEYS = ("sweep", "experiment", "name", "uid")
_IDENTITY_TAGS = {"search space": "search_space", "dataset content": "dataset", "code": "code", "seed": "seed"}
_NOTE_LENGTH = 4_000
_CONFIGURATION = "c"  # before the number of the first trial, in the key of a configuration's run


class EventRecorder:
    """Writer of events to MLflow, used by the writer thread; every event may be written again.

    Args:
        client: Client of the server or database.
        experiment: Name of the experiment, which is created where it is absent.
        tracking_uri: Address of the server or database.
        artifacts: Folder for artifacts where the address is a database.
        folder: Folder of the sweep.

    Attributes:
        runs: Ids of the sweep's run (`sweep`), of its trials' (`trial-<number>`), and of its configurations' with
            several seeds (`configuration-<number of the first trial>`).
        outside_files: Files that the journal names and that lie outside of the sweep's folder; they were not sent.
    """

    def __init__(
        self, client: MlflowClient, *, experiment: str, tracking_uri: str, artifacts: Path, folder: Path
    ) -> None:
        self._client = client
        self._experiment = experiment
        self._tracking_uri = tracking_uri
        self._artifacts = artifacts
        self._folder = folder
        self._checkpoints = StoredCheckpoints(client, tracking_uri, SweepFolder(folder).scratch)
        self._known_runs: dict[str, str] | None = {}  # run ids by key, of an earlier recorder; None where unknown
        self._unanswered: frozenset[str] = frozenset()  # keys of runs whose creation was requested more than once
        self._front: set[int] = set()
        self._dataset: Mapping[str, Any] | None = None
        self.runs: dict[str, str] = {}
        self.outside_files: set[str] = set()
        self._handlers: dict[type[Event], Callable[[Any], str | None]] = {
            SweepStarted: self._start_sweep,
            SessionDescribed: self._describe_session,
            LanesPlanned: self._note_lanes,
            SweepResumed: self._resume_sweep,
            TrialStarted: self._start_trial,
            TrialResumed: self._resume_trial,
            TrialChanged: self._note_change,
            SettingsChanged: self._note_settings,
            TrialReported: lambda event: self.record_reports([event]),
            TrialPaused: self._pause_trial,
            TrialProgressed: lambda event: self.record_reports([event]),
            TrialEnded: self._end_trial,
            ConfigurationMeasured: self._note_mean,
            CheckpointKept: self._keep_checkpoint,
            CheckpointDropped: self._drop_checkpoint,
            FrontFound: self._mark_front,
            SweepEnded: self._end_sweep,
        }

    def record(self, event: Event) -> str | None:
        """Write one event; events without a handler are summarised at the end of the sweep.

        Returns:
            Permanent fault of the event, which a retry would meet again; None for success.
        """
        handler = self._handlers.get(type(event))
        return handler(event) if handler else None

    def record_reports(self, reports: Sequence[TrialReported | TrialProgressed]) -> None:
        """Write reports and progress of one trial in as few requests as possible."""
        metrics = [
            metric(f"progress/{key}", value, _milliseconds(report.time), report.step)
            if isinstance(report, TrialProgressed)
            else metric(key, value, _milliseconds(report.time), report.epoch)
            for report in reports
            for key, value in report.metrics.items()
        ]
        nodes = [report.nodes for report in reports if isinstance(report, TrialReported) and report.nodes is not None]
        tags = [tag("spatialsweep.nodes", ", ".join(nodes[-1]))] if nodes else []
        if metrics or tags:
            log(self._client, self._trial(reports[0]), metrics=metrics, tags=tags)

    def invalidate_known_runs(self) -> None:
        """Look existing runs up again: a request whose answer was lost may have created one."""
        self._known_runs = None

    def snapshot(self) -> Mapping[str, Any]:
        """Return what a later recorder needs to resume."""
        runs = {key: self.runs[key] for key in _SWEEP_KEYS}
        return {**runs, "front": sorted(self._front), "dataset": self._dataset}

    def restore(self, stored: Mapping[str, Any]) -> bool:
        """Resume from the snapshot of an earlier recorder; False where it is damaged or the server has no such run."""
        try:
            _SNAPSHOT.validate_python(stored)
        except ValidationError:
            return False
        try:
            require_run(self._client, stored["sweep"])
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False
        self.runs, self._front = {key: stored[key] for key in _SWEEP_KEYS}, set(stored["front"])
        self._dataset, self._known_runs = stored.get("dataset"), None
        for key, run_id in self._existing_runs().items():
            self.runs[_name_of(key)] = run_id
        return True

    def _start_sweep(self, event: SweepStarted) -> None:
        name, uid, identity = event.name, event.uid, event.identity or {}
        experiment = experiment_id(
            self._client, self._experiment, tracking_uri=self._tracking_uri, artifacts=self._artifacts
        )
        run_id = find_run(self._client, experiment, uid)
        if run_id is not None:
            require_run(self._client, run_id)
            self._known_runs = None
        else:
            known = {f"spatialsweep.{short}": identity[key] for key, short in _IDENTITY_TAGS.items() if key in identity}
            tags = {"spatialsweep.kind": "sweep", "spatialsweep.sweep": name, **known, **event.facts}
            run_id = self._create_run(experiment, key=uid, name=name, event=event, tags=tags)
        self.runs |= {"sweep": run_id, "experiment": experiment, "name": name, "uid": uid}
        log(self._client, run_id, params=[param(*item) for item in flatten(event.config).items()])

    def _describe_session(self, event: SessionDescribed) -> None:
        """Store the inputs of the session, such as the sweep file and the difference to the git revision."""
        run_id, self._dataset = self.runs["sweep"], event.dataset
        self._client.log_inputs(run_id, [dataset_input(event.dataset)])
        folder = f"sessions/{event.session:03d}"
        for file in event.files:
            _, found, below = Path(file).parent.as_posix().rpartition(f"/{folder}/")
            self._upload(run_id, [file], f"{folder}/{below}" if found and ".." not in below else folder)

    def _note_lanes(self, event: LanesPlanned) -> None:
        plan = {key: value for key, value in vars(event).items() if key not in ("event", "time", "waits")}
        log(self._client, self.runs["sweep"], tags=[tag(f"spatialsweep.{key}", f"{plan[key]:g}") for key in plan])

    def _start_trial(self, event: TrialStarted) -> None:
        number, sweep = event.trial, self.runs["name"]
        tags = {
            "mlflow.parentRunId": self.runs["sweep"] if event.repeats is None else self._configuration(event),
            "spatialsweep.kind": "trial",
            "spatialsweep.sweep": sweep,
            "spatialsweep.status": "running",
            "spatialsweep.optuna_trial": str(number),
            "spatialsweep.tune_trial": event.tune_id,
        }
        if event.repeats is not None:
            tags |= {"spatialsweep.repeats": str(event.repeats), "spatialsweep.replicate": str(event.replicate)}
        key, name = f"{self.runs['uid']}/{number}", f"{sweep}/trial-{number:05d}"
        run_id = self.runs.get(f"trial-{number}") or self._existing_runs().get(key)
        if run_id is None:
            run_id = self._create_run(self.runs["experiment"], key=key, name=name, event=event, tags=tags)
        self.runs[f"trial-{number}"] = run_id
        settings = {**flatten(event.config), **event.params}
        log(self._client, run_id, params=[param(*item) for item in settings.items()])
        if self._dataset is not None:
            self._client.log_inputs(run_id, [dataset_input(self._dataset)])

    def _configuration(self, event: TrialStarted) -> str:
        """Return the run of the configuration that a trial repeats; the run of its first trial is put below it."""
        first = event.repeats
        found = self.runs.get(f"configuration-{first}")
        if found is not None:
            return found
        key = f"{self.runs['uid']}/{_CONFIGURATION}{first}"
        run_id = self._existing_runs().get(key)
        if run_id is None:
            name = f"{self.runs['name']}/configuration-{first:05d}"
            tags = {
                "mlflow.parentRunId": self.runs["sweep"],
                "spatialsweep.kind": "configuration",
                "spatialsweep.sweep": self.runs["name"],
            }
            run_id = self._create_run(self.runs["experiment"], key=key, name=name, event=event, tags=tags)
        log(self._client, run_id, params=[param(*item) for item in event.params.items()])
        self._client.set_tag(self.runs[f"trial-{first}"], "mlflow.parentRunId", run_id)
        self.runs[f"configuration-{first}"] = run_id
        return run_id

    def _note_mean(self, event: ConfigurationMeasured) -> str | None:
        """Write the mean over the seeds, with its interval; the step is the number of seeds."""
        run_id, time_ms = self.runs.get(f"configuration-{event.trial}"), _milliseconds(event.time)
        if run_id is None:
            return f"trial {event.trial} has no further seeds"
        figures = {"mean": event.mean, "ci_low": event.ci_low, "ci_high": event.ci_high}
        seeds = len(event.trials)
        log(self._client, run_id, metrics=[metric(key, to, time_ms, seeds) for key, to in figures.items()])
        self._client.set_terminated(run_id, "FINISHED", time_ms)
        return None

    def _resume_sweep(self, event: SweepResumed) -> None:
        self._client.update_run(self.runs["sweep"], status="RUNNING")
        facts = {"spatialsweep.status": "running", **event.facts}
        log(self._client, self.runs["sweep"], tags=[tag(*item) for item in facts.items()])

    def _resume_trial(self, event: TrialResumed) -> None:
        self._client.update_run(self._trial(event), status="RUNNING")
        facts = {"spatialsweep.status": "running", "spatialsweep.tune_trial": event.tune_id}
        log(self._client, self._trial(event), tags=[tag(*item) for item in facts.items()])

    def _note_settings(self, event: SettingsChanged) -> None:
        """Write the settings that were changed while the sweep ran as tags: its parameters stay those of its start."""
        tags = [tag(f"spatialsweep.changed.{name}", str(value)) for name, value in event.changes.items()]
        log(self._client, self.runs["sweep"], tags=tags)

    def _note_change(self, event: TrialChanged) -> None:
        """Write the new settings of a trial as metrics; its parameters stay those of its start."""
        settings = {**event.config["training"], **event.config["model"]["options"]}
        numbers = {name: settings[name] for name in ("lr", "weight_decay", "span_penalty") if name in settings}
        time_ms, epoch = _milliseconds(event.time), event.epoch
        changed = {**numbers, "donor": event.donor}.items()
        log(self._client, self._trial(event), metrics=[metric(f"pbt/{key}", to, time_ms, epoch) for key, to in changed])

    def _pause_trial(self, event: TrialPaused) -> None:
        run_id, time_ms = self._trial(event), _milliseconds(event.time)
        facts = {"spatialsweep.status": "paused", "spatialsweep.resume_epoch": str(event.epoch)}
        log(self._client, run_id, metrics=_outcome(event, time_ms), tags=[tag(*item) for item in facts.items()])
        self._client.set_terminated(run_id, RUN_STATUS["paused"], time_ms)

    def _end_trial(self, event: TrialEnded) -> None:
        run_id, time_ms = self._trial(event), _milliseconds(event.time)
        tags = [tag("spatialsweep.status", event.status)]
        if reason := without_secrets(event.reason):
            tags.append(tag("spatialsweep.reason", reason))
            tags.append(tag("mlflow.note.content", f"```\n{cut(reason, _NOTE_LENGTH)}\n```"))
        log(self._client, run_id, metrics=_outcome(event, time_ms), tags=tags)
        logs = (self._folder / "trials" / trial_folder(event.trial)).glob(f"*{LOG_SUFFIX}")
        self._upload(run_id, sorted(map(str, logs)), "logs")
        self._client.set_terminated(run_id, RUN_STATUS[event.status], time_ms)

    def _keep_checkpoint(self, event: CheckpointKept) -> str | None:
        path = self._path_in_sweep(event.path)
        if path is None:
            return None
        pictures = trial_pictures(self._folder / "trials", event.trial)
        self._upload(self._trial(event), list(map(str, pictures)), PICTURES)
        key = f"{self.runs['uid']}/{event.trial}"
        name = f"{self.runs['name']}-trial-{event.trial:05d}"
        return self._checkpoints.keep(path, self._trial(event), key=key, name=name)

    def _drop_checkpoint(self, event: CheckpointDropped) -> str | None:
        key = f"{self.runs['uid']}/{event.trial}"
        return self._checkpoints.drop(Path(event.path).name, self._trial(event), key=key)

    def _mark_front(self, event: FrontFound) -> None:
        """Tag the trials of the Pareto front, and remove the tag from those of an earlier session's front."""
        for number in {*self._front, *event.trials}:
            on_front = "true" if number in event.trials else "false"
            self._client.set_tag(self.runs[f"trial-{number}"], "spatialsweep.pareto_front", on_front)
        self._front = set(event.trials)

    def _end_sweep(self, event: SweepEnded) -> None:
        run_id, time_ms, summary = self.runs["sweep"], _milliseconds(event.time), event.summary
        log(
            self._client,
            run_id,
            metrics=[metric(key, to, time_ms, 0) for key, to in summary.items() if isinstance(to, (int, float))],
            tags=[
                tag("spatialsweep.status", event.status),
                *(tag(f"spatialsweep.{key}", to) for key, to in summary.items()),
            ],
        )
        self._upload(run_id, event.files, "results")
        for key in self._unanswered:
            find_run(self._client, self.runs["experiment"], key, set(self.runs.values()))
        self._client.set_terminated(run_id, RUN_STATUS[event.status], time_ms)

    def _upload(self, run_id: str, files: Sequence[str], artifact_path: str) -> None:
        """Store the files that still exist in the sweep's folder, which may have been moved."""
        for path in map(self._path_in_sweep, files):
            if path is not None and path.is_file():
                self._client.log_artifact(run_id, str(path), artifact_path)

    def _path_in_sweep(self, recorded: str) -> Path | None:
        """Return the path of a file within the sweep's folder; a file outside is noted, never sent, and gives None."""
        try:
            return current_path_of(self._folder, Path(recorded))
        except UnsafePathError:
            self.outside_files.add(recorded)
            return None

    def _trial(self, event: _OfTrial) -> str:
        return self.runs[f"trial-{event.trial}"]

    def _create_run(self, experiment: str, *, key: str, name: str, event: Event, tags: Mapping[str, Any]) -> str:
        texts = {tag(*item).key: tag(*item).value for item in {**tags, KEY: key}.items()}
        repeated, self._unanswered = key in self._unanswered, self._unanswered | {key}
        run = self._client.create_run(experiment, start_time=_milliseconds(event.time), tags=texts, run_name=name)
        run_id = str(run.info.run_id)
        if repeated:
            find_run(self._client, experiment, key, [run_id])  # the first request may have arrived by now
        else:
            self._unanswered -= {key}
        return run_id

    def _existing_runs(self) -> Mapping[str, str]:
        """Return the runs of this sweep's trials and configurations that exist already, by key.

        An earlier writer has created them, or a request whose answer was lost.
        """
        if self._known_runs is None:
            query = f"tags.`{KEY}` LIKE '{self.runs['uid']}/%'"
            self._known_runs = runs_by_key(self._client, self.runs["experiment"], query, set(self.runs.values()))
        return self._known_runs


def _outcome(event: TrialPaused | TrialEnded, time_ms: int) -> list[Metric]:
    """Return the cost of a trial, and every objective at its best epoch."""
    cost = [metric(f"cost/{key}", value, time_ms, 0) for key, value in (event.cost or {}).items()]
    return cost + [metric(f"best/{key}", value, time_ms, 0) for key, value in (event.best or {}).items()]


def _name_of(key: str) -> str:
    """Return the name under which `EventRecorder.runs` has the run of a key."""
    last = key.rpartition("/")[2]
    number = last.removeprefix(_CONFIGURATION)
    return f"trial-{last}" if number == last else f"configuration-{number}"


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)
