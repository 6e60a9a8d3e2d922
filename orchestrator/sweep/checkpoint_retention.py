"""Retention of checkpoints: `kept_trials` decides which trials keep theirs, on disk and in MLflow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from orchestrator.config.sections.keep import KeepConfig
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.records.folder.trial_folder import trial_folder
from orchestrator.records.ledger import Ledger, TrialRecord, TrialStatus
from orchestrator.records.objectives import Objectives
from orchestrator.seeds.configurations import best_configuration, configurations
from orchestrator.seeds.race import may_be_best

_BEST, _LAST, _PREVIOUS = "best.pt", "last.pt", "previous.pt"
_SUFFIXES = (".pt", ".partial")
_NOTES = ("handover.json", "changed_config.json")


class KeptTrials(NamedTuple):
    """Trials whose checkpoints stay.

    Args:
        best: Numbers of the trials whose best weights stay.
        newest: Numbers of the trials all of whose checkpoints stay, for training to resume from.
    """

    best: frozenset[int]
    newest: frozenset[int]


def kept_trials(
    records: Sequence[TrialRecord],
    keep: KeepConfig,
    objectives: Objectives,
    repeated: Sequence[TrialRecord] | None = None,
) -> KeptTrials:
    """Decide which trials keep checkpoints.

    The best are the first `keep.best` of the ranking, the best one that was trained to the end, and the Pareto front:
    all that a result may call the best. The newest are the last `keep.last` to have ended. Of a configuration with
    several seeds that may be the best, the trial with the last seed keeps its best weights, too.

    Args:
        records: Trials to choose from.
        keep: Section `keep` of the configuration.
        objectives: Objectives and constraints of the sweep.
        repeated: All trials of the configurations with several seeds; None looks for them in `records`.
    """
    repeated = with_repeats(records) if repeated is None else repeated
    first = objectives.configs[0]
    ranked = sorted(
        (record for record in records if record.best(first.metric, first.mode) is not None), key=objectives.rank
    )
    finished = [record for record in ranked if record.status is TrialStatus.FINISHED]
    front = objectives.pareto_front(records) if len(objectives.configs) > 1 else []
    ended = sorted(
        (record for record in records if record.is_over), key=lambda record: record.ended_s or 0.0, reverse=True
    )
    return KeptTrials(
        best=frozenset(record.number for record in [*ranked[: keep.best], *finished[:1], *front])
        | _last_of_contenders(repeated, objectives),
        newest=frozenset(record.number for record in ended[: keep.last]),
    )


def with_repeats(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Return the trials of the configurations with several seeds.

    Args:
        records: Trials of the sweep.
    """
    numbers = {record.configuration for record in records if record.is_repeat}
    return [record for record in records if record.configuration in numbers]


def _last_of_contenders(repeated: Sequence[TrialRecord], objectives: Objectives) -> frozenset[int]:
    """Return the trial with the last seed of each configuration that may be the best."""
    found = {each.number: each for each in configurations(repeated, objectives) if each.values}
    if not found:
        return frozenset()
    sign = -1.0 if objectives.configs[0].mode == "min" else 1.0
    values = {number: [sign * value for value in each.values.values()] for number, each in found.items()}
    seeds = 1 + max(record.replicate for record in repeated)
    complete = best_configuration(list(found.values()), seeds)
    contenders = {*may_be_best(values, seeds), *([] if complete is None else [complete.number])}
    return frozenset(found[number].finished[-1].number for number in contenders)


def checkpoints_to_store(folder: SweepFolder, kept: KeptTrials) -> set[tuple[int, str]]:
    """Return the files that MLflow stores, by trial: best weights of the best, newest state of the newest.

    Args:
        folder: Folder of the sweep.
        kept: Trials whose checkpoints stay.
    """
    wanted = [(number, _BEST) for number in kept.best] + [(number, _LAST) for number in kept.newest]
    paths = [(number, folder.trials / trial_folder(number) / name) for number, name in wanted]
    return {(number, str(path)) for number, path in paths if path.exists()}


class CheckpointRetention:
    """Deletion of checkpoints while a sweep runs; called by the driver's main thread.

    The disk space of a sweep is thereby bounded: besides the checkpoints of `kept_trials` only those of trials that
    train or were interrupted stay, and those of `most_paused` paused trials.

    Args:
        keep: Section `keep` of the configuration.
        objectives: Objectives and constraints of the sweep.
        folder: Folder of the sweep.
        ledger: Ledger of the sweep.
    """

    def __init__(self, keep: KeepConfig, objectives: Objectives, folder: SweepFolder, ledger: Ledger) -> None:
        self._keep = keep
        self._objectives = objectives
        self._folder = folder
        self._ledger = ledger
        self._kept: list[TrialRecord] = []
        self._seen = 0

    @property
    def most_paused(self) -> int:
        """Number of paused trials that keep their checkpoints; the best trials are among them."""
        return max(self._keep.paused, self._keep.best)

    def let_go(self, number: int) -> None:
        """Delete the checkpoints of a paused trial; called in the thread "tune", which is the one that resumes trials.

        Args:
            number: Number of the trial.
        """
        self._prune(self._folder.trials / trial_folder(number), set())

    def apply(self) -> None:
        """Delete what is not kept; does nothing unless a trial has ended since the previous call.

        A trial whose checkpoints were deleted is not considered again: those that were better stay better.
        """
        fresh = self._ledger.ended_since(self._seen)
        if not fresh:
            return
        ended = sorted([*self._kept, *fresh], key=lambda record: record.number)
        repeated = with_repeats(self._ledger.trials()) if any(record.is_repeat for record in ended) else []
        kept = kept_trials(ended, self._keep, self._objectives, repeated)
        for record in ended:
            best = {_BEST} if record.number in kept.best else set()
            names = {_BEST, _LAST, _PREVIOUS} if record.number in kept.newest else best
            self._prune(self._folder.trials / trial_folder(record.number), names)
        self._kept = [record for record in ended if record.number in kept.best | kept.newest]
        self._seen += len(fresh)

    def _prune(self, folder: Path, names: set[str]) -> None:
        """Delete the checkpoints and notes of a trial except the named ones."""
        if folder.is_symlink() or self._folder.trials.is_symlink():
            return  # made by someone else
        for path in folder.glob("*"):
            is_ours = path.name in _NOTES or path.suffix in _SUFFIXES
            if is_ours and path.name not in names and not path.is_dir():
                path.unlink(missing_ok=True)
