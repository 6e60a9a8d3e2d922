"""Runs a sweep from its configuration to its result."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from orchestrator.budget import Budget
from orchestrator.config.schema import SweepConfig
from orchestrator.data import locate_dataset
from orchestrator.errors import ClusterError, TrackingError
from orchestrator.lanes.owner import Lanes, first_line
from orchestrator.ledger import Ledger, TrialStatus
from orchestrator.progress import Progress
from orchestrator.provenance import facts
from orchestrator.results import SweepResult, TrialResult
from orchestrator.session import plan_lanes, ray_session
from orchestrator.tracking.addresses import without_password
from orchestrator.tracking.journal import Journal
from orchestrator.tracking.mlflow_writer import MlflowWriter, embedded_uri, silence
from orchestrator.tune_run import TuneRun

logger = logging.getLogger(__name__)

CHOSEN_ON_TEST = "Epochs and trials were chosen on the test images (dataset.select_on): their accuracy is too good."

_UPDATE_S = 0.5
_DRAIN_S = 120.0


def run_sweep(config: SweepConfig, *, address: str | None = None, console: Console | None = None) -> SweepResult:
    """Trains and compares the configurations of a sweep.

    Everything is kept in a folder of its own beneath `config.runs_dir`. Ctrl-C ends the sweep early: running trials
    stop at their next epoch, and the result holds what there is.

    Args:
        config: Checked when it was built.
        address: Ray cluster to join; None starts a private instance, or joins `RAY_ADDRESS`.
        console: Where progress is shown; None keeps silent.

    Returns:
        The result; its status is `interrupted` after Ctrl-C.

    Raises:
        ClusterError: The cluster does not answer, or cannot hold one trial.
        DataError: The dataset cannot be prepared.
    """
    console = console or Console(quiet=True)
    runs_dir = resolve_runs_dir(config.runs_dir)
    with ray_session(address), _interruptible() as interrupted:
        plan = plan_lanes(config.resources, config.trials)
        dataset = locate_dataset(config.dataset.name, config.dataset.uri, runs_dir / "datasets")
        folder = claim_folder(runs_dir, config.name)
        with Journal(folder / "journal.jsonl") as journal:
            ledger = Ledger(journal)
            writer = _start_tracking(config, runs_dir, journal)
            ledger.sweep_started(folder.name, _recorded(config), facts())
            ledger.lanes_planned(plan.lanes, plan.workers, config.resources.cpus_per_worker, plan.gpus_per_worker)
            lanes = Lanes(
                config,
                count=plan.lanes,
                gpus_per_worker=plan.gpus_per_worker,
                dataset_path=dataset,
                folder=folder / "ray",
            )
            budget = Budget(config.budget, config.objective)
            progress = Progress(config, ledger, plan.lanes, console)
            progress.say(
                f"Sweep {folder.name}: {config.trials} trials of at most {config.max_epochs} epochs, "
                f"{plan.lanes} lane(s) of {plan.workers} worker(s) on {'GPU' if plan.gpus_per_worker else 'CPU'}"
            )
            status = TrialStatus.FAILED
            try:
                with lanes, progress:
                    search = TuneRun(config, folder, ledger, lanes.hub, lanes.count)
                    status = _search(search, lanes, progress, interrupted, ledger=ledger, budget=budget)
            finally:
                result = _conclude(config, folder, ledger, writer, status)
    return result


def _recorded(config: SweepConfig) -> dict[str, Any]:
    """The configuration as it is stored: complete but for passwords."""
    content = config.model_dump(mode="json")
    if config.tracking.uri is not None:
        content["tracking"]["uri"] = without_password(config.tracking.uri)
    if config.storage.uri is not None:
        content["storage"]["uri"] = without_password(config.storage.uri)
    if config.dataset.uri is not None:
        content["dataset"]["uri"] = without_password(config.dataset.uri)
    return content


def resolve_runs_dir(configured: str | None) -> Path:
    """Where results are kept: as configured, else `runs` here.

    Inside a Ray job the current folder is a copy that Ray deletes, so there the default lies in the home folder.
    """
    if configured:
        return Path(configured).expanduser().resolve()
    here = Path.cwd()
    if "runtime_resources" in here.parts or os.environ.get("RAY_JOB_SUBMISSION_ID"):
        return Path.home() / "spatialsweep" / "runs"
    return here / "runs"


def claim_folder(runs_dir: Path, name: str) -> Path:
    """Makes the folder of a new sweep, `<name>-001` or the next free number; safe against a concurrent sweep."""
    runs_dir.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        folder = runs_dir / f"{name}-{number:03d}"
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder


def _start_tracking(config: SweepConfig, runs_dir: Path, journal: Journal) -> MlflowWriter:
    silence()
    writer = MlflowWriter(
        journal.path,
        tracking_uri=config.tracking.uri or embedded_uri(runs_dir),
        experiment=config.tracking.experiment,
        artifacts=runs_dir / "artifacts",
    )
    writer.start()
    return writer


def _search(
    search: TuneRun, lanes: Lanes, progress: Progress, interrupted: threading.Event, *, ledger: Ledger, budget: Budget
) -> TrialStatus:
    """Lets Tune run in a thread of its own, so that this one shows progress, minds the budget and hears Ctrl-C."""
    lost = False
    search.start()
    try:
        while search.running and lanes.alive and not interrupted.is_set() and not ledger.ended_by:
            progress.update()
            search.wait(_UPDATE_S)
            if search.running and (reason := budget.spent(ledger.so_far())):
                ledger.budget_spent(reason)
                progress.say(f"Stopping: {reason}.")
        lost = search.running and not lanes.alive
        if interrupted.is_set():
            progress.say("Stopping: running trials end now; what is finished is kept.")
    finally:
        search.end("the sweep was interrupted" if interrupted.is_set() else ledger.ended_by or "the sweep is over")
        lanes.close()
        search.join()
    progress.update()
    if lost and lanes.failure is not None:
        raise ClusterError(f"no lane could be kept alive: {first_line(lanes.failure)}") from lanes.failure
    if search.failure is not None:
        raise search.failure
    return TrialStatus.INTERRUPTED if interrupted.is_set() else TrialStatus.FINISHED


@contextlib.contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """An event set by Ctrl-C or SIGTERM; off the main thread signals are left to their owner."""
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return

    def notice(_signal: int, _frame: Any) -> None:
        interrupted.set()

    before = {number: signal.signal(number, notice) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _conclude(
    config: SweepConfig, folder: Path, ledger: Ledger, writer: MlflowWriter, status: TrialStatus
) -> SweepResult:
    """Hands the best checkpoints and the tables to MLflow and waits until it has everything."""

    def result(run_ids: dict[int, str], notice: str = "") -> SweepResult:
        return SweepResult(
            name=folder.name,
            folder=folder,
            metric=config.objective.metric,
            mode=config.objective.mode,
            status=status,
            tracking_uri=writer.public_uri,
            records=ledger.trials(),
            run_ids=run_ids,
            notice=notice,
            ended_by=ledger.ended_by,
            so_far=ledger.so_far(),
        )

    first = result({})
    for trial in first.ranking()[: config.keep_best]:
        if trial.checkpoint is not None:
            ledger.checkpoint_kept(trial.number, str(trial.checkpoint))
    tables = first.write_tables()
    ledger.sweep_ended(status, _summary(first.best, ledger), [str(path) for path in tables])
    notices = [CHOSEN_ON_TEST] if config.dataset.select_on == "test" else []
    try:
        writer.drain(_DRAIN_S)
    except TrackingError as error:
        notices.append(str(error))
    final = result(
        {trial.number: run for trial in ledger.trials() if (run := writer.run_id(trial.number)) is not None},
        " ".join(notices),
    )
    final.write_tables()
    return final


def _summary(best: TrialResult | None, ledger: Ledger) -> dict[str, Any]:
    trials = ledger.trials()
    counts: dict[str, Any] = {
        f"trials_{status}": sum(trial.status is status for trial in trials) for status in TrialStatus
    }
    del counts[f"trials_{TrialStatus.RUNNING}"]
    so_far = ledger.so_far()
    counts |= {"wall_s": so_far.wall_s, **{f"cost/{key}": value for key, value in so_far.cost.as_dict().items()}}
    if ledger.ended_by:
        counts["ended_by"] = ledger.ended_by
    if best is None:
        return counts
    test = {} if best.test_top1 is None else {"best_test_top1": best.test_top1}
    return {**counts, "best_trial": best.number, "best_value": best.value, **test}
