"""Retention of checkpoints when trials end."""

from __future__ import annotations

from pathlib import Path

from orchestrator.config import KeepConfig, ObjectiveConfig
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.records.folder.trial_folder import trial_folder
from orchestrator.records.journal import Journal
from orchestrator.records.ledger import Ledger, TrialStatus
from orchestrator.records.objectives import Objectives
from orchestrator.sweep.checkpoint_retention import CheckpointRetention

FILES = ("best.pt", "last.pt", "previous.pt")
LOG = "rank-0.log"


OBJECTIVES = Objectives.of((ObjectiveConfig(),), ())


def begin(ledger: Ledger, folder: SweepFolder, number: int, value: float) -> None:
    """Start a trial that has reported once and has all its files."""
    ledger.trial_started(number, f"tune{number}", {}, {"training": {"epochs": 3}})
    ledger.trial_reported(number, 1, {"val/top1": value})
    place = folder.trials / trial_folder(number)
    place.mkdir(parents=True)
    for name in (*FILES, LOG):
        (place / name).write_bytes(b"x")


def left(folder: SweepFolder, number: int) -> list[str]:
    """Return the remaining checkpoints of a trial; its log always remains."""
    names = sorted(path.name for path in (folder.trials / trial_folder(number)).iterdir())
    names.remove(LOG)
    return names


def test_the_best_the_newest_and_the_unfinished_stay(tmp_path: Path) -> None:
    folder, keep = SweepFolder(tmp_path / "s"), KeepConfig(best=2, last=1)
    with Journal(folder.journal) as journal:
        ledger = Ledger(journal)
        retention = CheckpointRetention(keep, OBJECTIVES, folder, ledger)
        for number, value in enumerate((0.9, 0.1, 0.8, 0.7, 0.2, 0.3)):
            begin(ledger, folder, number, value)
        for number in (0, 1, 2):
            ledger.trial_ended(number, TrialStatus.FINISHED)
            retention.apply()
        assert left(folder, 0) == ["best.pt"]
        assert left(folder, 1) == []
        assert left(folder, 2) == sorted(FILES)
        ledger.trial_ended(3, TrialStatus.PRUNED)
        ledger.trial_ended(4, TrialStatus.INTERRUPTED, "Ctrl-C")
        retention.apply()
    assert left(folder, 2) == ["best.pt"]
    assert left(folder, 3) == sorted(FILES)
    assert left(folder, 4) == left(folder, 5) == sorted(FILES)


def test_the_best_trial_trained_to_the_end_stays_among_better_ones_stopped_early(tmp_path: Path) -> None:
    folder, keep = SweepFolder(tmp_path / "s"), KeepConfig(best=1, last=0)
    with Journal(folder.journal) as journal:
        ledger = Ledger(journal)
        for number, value in enumerate((0.5, 0.9, 0.4)):
            begin(ledger, folder, number, value)
            ledger.trial_ended(number, TrialStatus.PRUNED if number == 1 else TrialStatus.FINISHED)
        CheckpointRetention(keep, OBJECTIVES, folder, ledger).apply()
    assert [left(folder, number) for number in range(3)] == [["best.pt"], ["best.pt"], []]


def test_a_paused_trial_keeps_its_checkpoints_until_they_are_let_go(tmp_path: Path) -> None:
    folder, keep = SweepFolder(tmp_path / "s"), KeepConfig(best=2, last=0, paused=0)
    with Journal(folder.journal) as journal:
        ledger = Ledger(journal)
        retention = CheckpointRetention(keep, OBJECTIVES, folder, ledger)
        assert retention.most_paused == 2  # the best trials keep theirs
        for number, value in enumerate((0.9, 0.1, 0.8)):
            begin(ledger, folder, number, value)
            ledger.trial_paused(number, 1)
        retention.apply()
        assert [left(folder, number) for number in range(3)] == [sorted(FILES)] * 3
        retention.let_go(1)
        assert left(folder, 1) == []
        ledger.trial_resumed(0, "tune9")
        ledger.trial_ended(0, TrialStatus.FINISHED)
        retention.apply()
    assert left(folder, 0) == ["best.pt"]
    assert left(folder, 2) == sorted(FILES)
