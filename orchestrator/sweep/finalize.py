"""End of a session: tables, best checkpoints, and MLflow brought up to date."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.config.plans import SweepPlans, TrackingPlan
from orchestrator.config.tasks.registry import task_facts
from orchestrator.disk_space import is_full
from orchestrator.errors import TrackingError, first_line
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.records.ledger import Ledger, TrialStatus, count_rejected
from orchestrator.records.objectives import Objectives
from orchestrator.results.sweep_result import SweepResult
from orchestrator.search.racing import record_means
from orchestrator.sweep.checkpoint_retention import checkpoints_to_store, kept_trials
from orchestrator.tracking.mlflow_client import silence_mlflow
from orchestrator.tracking.mlflow_writer import MlflowWriter

logger = logging.getLogger(__name__)

CHOSEN_ON_TEST = "Epochs and trials were chosen on the test images (dataset.select_on): their accuracy is too good."

_DRAIN_S = 120.0


def start_tracking(plan: TrackingPlan, journal: Path, *, after_report: bool = False) -> MlflowWriter:
    """Start the thread that writes the journal into MLflow while the sweep runs; does not block.

    Args:
        plan: Tracking plan of the sweep.
        journal: Journal of the sweep.
        after_report: Whether it connects after the first report of a trial; see `JournalFollower.start`.
    """
    silence_mlflow()
    writer = MlflowWriter(journal, tracking_uri=plan.uri, experiment=plan.experiment, artifacts=plan.artifacts)
    writer.start(after_report=after_report)
    return writer


def finalize(
    plans: SweepPlans, folder: SweepFolder, ledger: Ledger, writer: MlflowWriter, status: TrialStatus
) -> SweepResult:
    """Store the best checkpoints, write the tables, record the end, and wait until MLflow has everything.

    Runs in the driver's main thread. An absence of the tracking server becomes a notice of the result.

    Args:
        plans: Plans of the sweep.
        folder: Folder of the sweep.
        ledger: Ledger of the sweep.
        writer: Writer that follows its journal.
        status: Status of the sweep.
    """
    search = plans.search
    objectives = Objectives.of(search.objectives, search.constraints)

    def result(run_ids: dict[int, str], notice: str = "") -> SweepResult:
        return SweepResult(
            name=folder.name,
            folder=folder.path,
            metric=search.objective.metric,
            mode=search.objective.mode,
            status=status,
            tracking_uri=writer.public_uri,
            records=ledger.trials(),
            run_ids=run_ids,
            notice=notice,
            ended_by=ledger.ended_by,
            so_far=ledger.totals(),
            objectives=objectives,
            storage_uri=plans.paths.study_uri,
            seeds=search.seeds,
            task=task_facts(search.task),
        )

    try:
        record_means(ledger, objectives)
        notices = _record_end(plans, folder, ledger, result({}), objectives)
    except BaseException:  # such as a full disk: the thread must end all the same, and sends what is recorded
        if lacking := _drain(writer):
            logger.warning("%s", lacking)
        raise
    lacking = _drain(writer)
    final = result(
        {trial.number: run for trial in ledger.trials() if (run := writer.run_id(trial.number)) is not None},
        " ".join(filter(None, [*notices, lacking])),
    )
    _write_tables(final)
    return final


def _record_end(
    plans: SweepPlans, folder: SweepFolder, ledger: Ledger, result: SweepResult, objectives: Objectives
) -> list[str]:
    """Record the checkpoints to store and the end of the session, and write the tables; return notices for the user."""
    search = plans.search
    front = [trial.number for trial in result.pareto_front] if len(search.objectives) > 1 else []
    unseen = _draw_predictions(result) if result.status is TrialStatus.FINISHED else ""
    kept = kept_trials(ledger.trials(), plans.keep, objectives)
    _store_checkpoints(ledger, checkpoints_to_store(folder, kept))
    if front:
        ledger.front_found(front)
    tables, unwritten = _write_tables(result)
    ledger.sweep_ended(result.status, _summary(result, ledger, front), [str(path) for path in tables])
    notices = [CHOSEN_ON_TEST] if search.dataset.select_on == "test" else []
    notices += [notice for notice in (unseen, unwritten) if notice]
    if rejected := count_rejected(Counter(trial.rule for trial in ledger.rejected())):
        notices.append(f"Rejected before they cost a trial: {rejected}.")
    return notices


def _drain(writer: MlflowWriter) -> str:
    """Wait until MLflow has everything, and end the thread; return what it lacks."""
    try:
        writer.drain(_DRAIN_S)
    except TrackingError as error:
        return str(error)
    return ""


def _write_tables(result: SweepResult) -> tuple[list[Path], str]:
    """Write the tables; return their paths, or none and a notice where the disk is full: the journal has everything."""
    try:
        return result.write_tables(), ""
    except OSError as error:
        if not is_full(error):
            raise
        return [], f"{result.folder} has no room for the tables of results; `spatialsweep resume` writes them."


def _draw_predictions(result: SweepResult) -> str:
    """Draw predictions of the best trial into its folder, for report and MLflow; return a notice where that fails.

    Only tasks on annotated images have such pictures.
    """
    best = result.best
    if not result.task.annotation or best is None or best.checkpoint is None:
        return ""
    from orchestrator.inference.predict.samples import draw_samples
    from orchestrator.inference.trained_network import find_network
    from orchestrator.results.sample_pictures import store_pictures

    try:
        store_pictures(result.folder, best.number, draw_samples(find_network(best.checkpoint)))
    except Exception as error:  # whatever fails, the sweep has ended and its results are kept
        return f"Its predictions were not drawn ({first_line(error)})."
    return ""


def _store_checkpoints(ledger: Ledger, kept: set[tuple[int, str]]) -> None:
    """Record the files to store in MLflow, and those that earlier sessions stored and that are no longer kept."""
    known = {(number, Path(path).name) for number, path in kept}  # the sweep may have moved since they were stored
    for number, path in sorted(ledger.stored):
        if (number, Path(path).name) not in known:
            ledger.checkpoint_dropped(number, path)
    for number, path in sorted(kept):
        ledger.checkpoint_kept(number, path)


def _summary(result: SweepResult, ledger: Ledger, front: Sequence[int]) -> dict[str, Any]:
    best, primary = result.best, result.task.primary.name
    trials = ledger.trials()
    counts: dict[str, Any] = {
        f"trials_{status}": sum(trial.status is status for trial in trials) for status in TrialStatus
    }
    del counts[f"trials_{TrialStatus.RUNNING}"]
    counts["trials_rejected"] = len(ledger.rejected())
    totals = ledger.totals()
    counts |= {"wall_s": totals.wall_s, **{f"cost/{key}": value for key, value in totals.cost.as_dict().items()}}
    if front:
        counts |= {"pareto_trials": len(front), "pareto_front": ", ".join(map(str, front))}
    if ledger.ended_by:
        counts["ended_by"] = ledger.ended_by
    if best is None:
        return counts
    test = {f"best_test_{primary}": best.test[primary]} if primary in best.test else {}
    over = best.configuration
    means = {} if over is None else {"best_mean": over.mean, "best_ci_low": over.ci_low, "best_ci_high": over.ci_high}
    return {**counts, "best_trial": best.number, "best_value": best.value, **test, **means}
