"""The end of a session of a sweep: its tables, its best checkpoints, and MLflow brought up to date."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.config.sweep import SweepConfig
from orchestrator.errors import TrackingError
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.records.folder.trial_folder import trial_folder
from orchestrator.records.ledger import Ledger, TrialStatus, count_rejected
from orchestrator.records.objectives import Objectives
from orchestrator.results.sweep_result import SweepResult, TrialResult
from orchestrator.search.storage import study_uri
from orchestrator.server_addresses import embedded_uri
from orchestrator.tracking.mlflow_runs import silence_mlflow
from orchestrator.tracking.mlflow_writer import MlflowWriter

CHOSEN_ON_TEST = "Epochs and trials were chosen on the test images (dataset.select_on): their accuracy is too good."

_DRAIN_S = 120.0


def start_tracking(config: SweepConfig, runs_dir: Path, journal: Path) -> MlflowWriter:
    """Lets a thread carry the journal into MLflow while the sweep runs."""
    silence_mlflow()
    writer = MlflowWriter(
        journal,
        tracking_uri=config.tracking.uri or embedded_uri(runs_dir),
        experiment=config.tracking.experiment,
        artifacts=runs_dir / "artifacts",
    )
    writer.start()
    return writer


def conclude(
    config: SweepConfig, folder: SweepFolder, ledger: Ledger, writer: MlflowWriter, status: TrialStatus
) -> SweepResult:
    """Hands the best checkpoints and the tables to MLflow and waits until it has everything.

    Args:
        config: Of the sweep.
        folder: Of the sweep.
        ledger: Of the sweep; told of the end.
        writer: Follows its journal.
        status: How the sweep stands.
    """

    def result(run_ids: dict[int, str], notice: str = "") -> SweepResult:
        return SweepResult(
            name=folder.name,
            folder=folder.path,
            metric=config.objective.metric,
            mode=config.objective.mode,
            status=status,
            tracking_uri=writer.public_uri,
            records=ledger.trials(),
            run_ids=run_ids,
            notice=notice,
            ended_by=ledger.ended_by,
            so_far=ledger.totals(),
            objectives=Objectives.of(config),
            storage_uri=study_uri(config, folder.path.parent),
        )

    first = result({})
    front = [trial.number for trial in first.pareto_front] if len(config.objectives) > 1 else []
    _store_checkpoints(ledger, _kept_checkpoints(config, folder, first))
    if front:
        ledger.front_found(front)
    tables = first.write_tables()
    ledger.sweep_ended(status, _summary(first.best, ledger, front), [str(path) for path in tables])
    notices = [CHOSEN_ON_TEST] if config.dataset.select_on == "test" else []
    if rejected := count_rejected(Counter(trial.rule for trial in ledger.rejected())):
        notices.append(f"Rejected before they cost a trial: {rejected}.")
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


def _kept_checkpoints(config: SweepConfig, folder: SweepFolder, result: SweepResult) -> set[tuple[int, str]]:
    """The files worth storing, by trial: the best weights of the best, and what the newest would go on from."""
    best = [*result.ranking()[: config.keep.best], *([result.best] if result.best else [])]
    best += result.pareto_front if len(config.objectives) > 1 else []
    kept = {(trial.number, str(trial.checkpoint)) for trial in best if trial.checkpoint is not None}
    over = sorted((record for record in result.records if record.is_over), key=lambda record: record.ended_s or 0.0)
    for record in over[len(over) - config.keep.last :]:
        last = folder.trials / trial_folder(record.number) / "last.pt"
        if last.exists():
            kept.add((record.number, str(last)))
    return kept


def _store_checkpoints(ledger: Ledger, kept: set[tuple[int, str]]) -> None:
    """Has the files stored that are kept, and taken out again that earlier sessions had stored and are kept no more."""
    known = {(number, Path(path).name) for number, path in kept}  # the sweep may have moved since they were stored
    for number, path in sorted(ledger.stored):
        if (number, Path(path).name) not in known:
            ledger.checkpoint_dropped(number, path)
    for number, path in sorted(kept):
        ledger.checkpoint_kept(number, path)


def _summary(best: TrialResult | None, ledger: Ledger, front: Sequence[int]) -> dict[str, Any]:
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
    test = {} if best.test_top1 is None else {"best_test_top1": best.test_top1}
    return {**counts, "best_trial": best.number, "best_value": best.value, **test}
