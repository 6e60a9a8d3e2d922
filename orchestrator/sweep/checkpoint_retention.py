"""Which checkpoints a sweep keeps: those of its best trials, of its newest, and of all that may still train."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.config.sweep import SweepConfig
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.records.folder.trial_folder import trial_folder
from orchestrator.records.ledger import Ledger, TrialRecord, TrialStatus
from orchestrator.records.objectives import Objectives

_SUFFIXES = (".pt", ".partial")
_NOTES = ("handover.json", "changed_config.json")


class Retention:
    """Deletes the checkpoints of trials that are over and neither among the best nor among the newest.

    What a sweep holds on disk is thereby bounded: `keep.best` weights, those of the best trial trained to the end and
    of the Pareto front, the checkpoints of `keep.last` trials, and of those that train or were interrupted.

    Args:
        config: Of the sweep.
        folder: Of the sweep.
        ledger: Of the sweep.
    """

    def __init__(self, config: SweepConfig, folder: SweepFolder, ledger: Ledger) -> None:
        self._keep = config.keep
        self._objectives = Objectives.of(config)
        self._folder = folder
        self._ledger = ledger
        self._kept: list[TrialRecord] = []
        self._looked_at = 0

    def apply(self) -> None:
        """Deletes what is not kept; does nothing unless a trial has ended since the last time.

        A trial whose checkpoints were deleted is not looked at again: those that were better stay better.
        """
        fresh = self._ledger.ended_since(self._looked_at)
        if not fresh:
            return
        over = sorted([*self._kept, *fresh], key=lambda record: record.number)
        best = {record.number for record in self._best(over)}
        by_end = sorted(over, key=lambda record: record.ended_s or 0.0, reverse=True)
        newest = {record.number for record in by_end[: self._keep.last]}
        for record in over:
            kept = {"best.pt"} if record.number in best else set()
            self._prune(record, {"best.pt", "last.pt", "previous.pt"} if record.number in newest else kept)
        self._kept = [record for record in over if record.number in best | newest]
        self._looked_at += len(fresh)

    def _best(self, over: Sequence[TrialRecord]) -> list[TrialRecord]:
        """Those whose weights are worth keeping: nothing that a result calls the best is ever deleted."""
        ranked = sorted(over, key=self._objectives.rank)
        finished = [record for record in ranked if record.status is TrialStatus.FINISHED]
        front = self._objectives.pareto_front(over) if len(self._objectives.configs) > 1 else []
        return [*ranked[: self._keep.best], *finished[:1], *front]

    def _prune(self, record: TrialRecord, kept: set[str]) -> None:
        folder = self._folder.trials / trial_folder(record.number)
        if folder.is_symlink() or self._folder.trials.is_symlink():
            return  # somebody has put it there
        for path in folder.glob("*"):
            is_ours = path.name in _NOTES or path.suffix in _SUFFIXES
            if is_ours and path.name not in kept and not path.is_dir():
                path.unlink(missing_ok=True)
