"""Which checkpoints are left on disk while trials end one after another."""

from __future__ import annotations

from pathlib import Path

from orchestrator import SweepConfig
from orchestrator.lanes.trial_folder import trial_folder
from orchestrator.ledger import Ledger, TrialStatus
from orchestrator.retention import Retention
from orchestrator.sweep_folder import new_folder
from orchestrator.tracking.journal import Journal


def test_the_best_keep_their_weights_and_the_newest_its_state(tmp_path: Path) -> None:
    config = SweepConfig(
        name="s", dataset={"name": "digits"}, model={"name": "conv_resnet26_small"}, keep={"best": 2, "last": 1}
    )
    folder = new_folder(tmp_path, "s")

    def train(number: int, value: float) -> None:
        ledger.trial_started(number, f"tune{number}", {}, {})
        ledger.trial_reported(number, 1, {"val/top1": value})
        (folder.trials / trial_folder(number)).mkdir(parents=True)
        for name in ("best.pt", "last.pt", "previous.pt"):
            (folder.trials / trial_folder(number) / name).touch()

    def left() -> dict[int, int]:
        files = {number: len(list((folder.trials / trial_folder(number)).iterdir())) for number in range(6)}
        return {number: count for number, count in files.items() if count}

    with Journal(folder.journal) as journal:
        ledger = Ledger(journal)
        retention = Retention(config, folder, ledger)
        for number, value in enumerate((0.3, 0.5, 0.2, 0.4, 0.6, 0.1)):
            train(number, value)
        for number in range(3):
            ledger.trial_ended(number, TrialStatus.FINISHED)
            retention.apply()
        assert left() == {0: 1, 1: 1, 2: 3, 3: 3, 4: 3, 5: 3}  # the last three still train
        for number in range(3, 6):
            ledger.trial_ended(number, TrialStatus.PRUNED)
            retention.apply()
    assert left() == {1: 1, 4: 1, 5: 3}
