"""Outcomes that a worker of a lane reports, which decide whether a trial is retried."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.sections.model import ModelConfig
from orchestrator.config.sections.training import TrainingConfig
from orchestrator.config.trial import TrialConfig
from orchestrator.errors import CheckpointError, TrialDivergedError, TrialFailedError
from orchestrator.lanes.lane_setting import LaneInputs, LaneSetting
from orchestrator.lanes.messages import Outcome, RankId, TrialAssignment, TrialOutcome
from orchestrator.lanes.worker import worker
from orchestrator.lanes.worker.trial_log import format_metrics, trial_log
from orchestrator.lanes.worker.trial_progress import TrialProgress
from orchestrator.training.trial import LeaveTrial, StopTrial
from orchestrator.training.workers import Workers

CONFIG = TrialConfig(number=0, model=ModelConfig(name="any"), training=TrainingConfig(), seed=0)


def ending_of(
    error: BaseException, folder: Path, patch: pytest.MonkeyPatch, workers: Workers | None = None
) -> TrialOutcome:
    """Return the outcome that a rank reports when training raises."""

    def fail(*_: Any, **__: Any) -> None:
        raise error

    patch.setattr(worker, "Trial", fail)
    assignment = TrialAssignment("a", CONFIG.model_dump(mode="json"), str(folder))
    lane: Any = LaneSetting(0, None, LaneInputs(None, "", None))  # type: ignore[arg-type]
    data: Any = None
    return worker._train(lane, RankId(0, 1, 0, 1), workers or Workers(), data, assignment)


def test_a_crash_may_be_retried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = ending_of(RuntimeError("no luck"), tmp_path, monkeypatch)
    assert (outcome.kind, outcome.final, outcome.poisoned) == (Outcome.FAILED, False, False)
    assert outcome.reason.startswith("RuntimeError: no luck\nTraceback")
    assert "failed: RuntimeError: no luck" in (tmp_path / "rank-0.log").read_text()


@pytest.mark.parametrize("error", [TrialFailedError("out of memory"), CheckpointError("both are damaged")])
def test_a_failure_that_a_retry_would_meet_again_is_final(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = ending_of(error, tmp_path, monkeypatch)
    assert (outcome.kind, outcome.final) == (Outcome.FAILED, True)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (TrialDivergedError("diverged"), Outcome.DIVERGED),
        (StopTrial(), Outcome.STOPPED),
        (worker.LeaveLane(), Outcome.MOVED),
    ],
)
def test_other_outcomes(error: BaseException, kind: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ending_of(error, tmp_path, monkeypatch).kind is kind


@pytest.mark.parametrize(("preempted", "kind"), [(False, Outcome.INTERRUPTED), (True, Outcome.MOVED)])
def test_an_epoch_is_left_for_the_end_of_the_sweep_or_for_a_preemption(
    preempted: bool, kind: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class LeftTrial:
        epoch, step, steps_per_epoch = 1, 30, 100

        def __init__(self, *_: Any, observer: TrialProgress, **__: Any) -> None:
            assert observer.wants_leave(60.0) is preempted

        def run(self, report: Any) -> None:
            raise LeaveTrial

    monkeypatch.setattr(worker, "Trial", LeftTrial)
    monkeypatch.setattr(worker, "is_node_preempted", lambda: preempted)
    assignment = TrialAssignment("a", CONFIG.model_dump(mode="json"), str(tmp_path))
    lane: Any = LaneSetting(0, None, LaneInputs(None, "", None))  # type: ignore[arg-type]
    data: Any = None
    assert worker._train(lane, RankId(0, 1, 0, 1), Workers(), data, assignment).kind is kind
    assert "left within epoch 2, after 30 of 100 steps" in (tmp_path / "rank-0.log").read_text()


def test_a_lost_peer_is_no_failure_of_this_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = RuntimeError("[gloo] Connection closed by peer [127.0.0.1]:4711")
    assert ending_of(error, tmp_path, monkeypatch, Workers(0, 2)).kind is Outcome.PEER_LOST
    assert ending_of(error, tmp_path, monkeypatch).kind is Outcome.FAILED  # which has no peers


def test_records_of_a_trial_are_in_its_log_and_in_no_other(tmp_path: Path) -> None:
    for number in (1, 2):
        with trial_log(tmp_path / str(number), rank=1) as log:
            log.info("epoch 1: %s", format_metrics({"val/top1": 0.98765, "time/data_s": 3.0, "lr": 0.1}))
            warnings.warn(f"warning of {number}", stacklevel=1)
    for number, other in ((1, 2), (2, 1)):
        text = (tmp_path / str(number) / "rank-1.log").read_text()
        assert "epoch 1: val/top1 0.9877, lr 0.1\n" in text
        assert f"warning of {number}" in text
        assert f"warning of {other}" not in text


def test_a_trial_trains_where_no_log_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file, not a folder")
    with trial_log(tmp_path / "taken", rank=0) as log:
        log.info("written nowhere")


def test_the_controller_of_a_lane_needs_no_torch() -> None:
    controller = "orchestrator.lanes.controller"
    its_own = f"orchestrator.lanes.lane_setting, {controller}.status_reporter, {controller}.process_group"
    found = subprocess.run(
        [sys.executable, "-c", f"import sys, {its_own}; print('torch' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout == "False\n"
