"""Checks within an epoch: how often, on which ranks, what they show; and an epoch that is left and resumed."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from orchestrator.errors import CheckpointError
from orchestrator.records.folder.live_progress import EpochProgress
from orchestrator.training import trial as trial_module
from orchestrator.training.epoch_losses import EpochLosses
from orchestrator.training.images.device_images import DeviceImages
from orchestrator.training.trial import LeaveTrial, Trial
from orchestrator.training.watch import epoch_watch
from orchestrator.training.watch.epoch_watch import EpochWatch
from orchestrator.training.workers import Workers
from tests.support.training_pieces import (
    Reports,
    differences,
    few_digits,
    join_group,
    make_trial,
    run,
    run_ranks,
    timeless,
    with_everything,
)

pytestmark = pytest.mark.usefixtures("one_thread")

# 300 images in batches of 32: ten steps an epoch.
SETTINGS: dict[str, Any] = {"epochs": 3, "crop_padding": 1, "mixup_alpha": 0.8, "ema_decay": 0.9}


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Observer:
    """Observer that asks to leave at its n-th question, and keeps what it is shown."""

    def __init__(self, leave_at: int | None = None) -> None:
        self.shown: list[EpochProgress] = []
        self.left_s: list[float] = []
        self._leave_at = leave_at

    def wants_leave(self, left_s: float) -> bool:
        self.left_s.append(left_s)
        return len(self.left_s) == self._leave_at

    def show(self, progress: EpochProgress) -> None:
        self.shown.append(progress)


def losses_of(*values: float) -> EpochLosses:
    losses = EpochLosses(100, Workers())
    for step, value in enumerate(values):
        losses.record(step, torch.tensor(value))
    return losses


def test_a_single_process_checks_every_two_seconds_and_shows_rate_loss_and_time_left() -> None:
    clock, observer = Clock(), Observer()
    watch = EpochWatch(7, Workers(), observer, clock)
    watch.begin_epoch(2, 0, [32] * 99 + [16])
    losses, checked = losses_of(*[64.0] * 100), []
    for step in range(1, 41):
        clock.now += 0.25
        if watch.is_due():
            checked.append(step)
            watch.check(step, losses)
    assert checked == [8, 16, 24, 32, 40]
    expected = EpochProgress(
        trial=7, epoch=2, step=8, steps=100, images_per_s=128.0, loss=2.0, left_s=92 * 0.25, epoch_s=25.0
    )
    assert observer.shown[0] == expected
    assert (observer.shown[-1].step, observer.shown[-1].left_s) == (40, 60 * 0.25)
    assert observer.left_s[-1] == 60 * 0.25


def test_a_slow_step_is_followed_by_a_check_and_a_loss_that_is_not_finite_is_shown_as_none() -> None:
    clock, observer = Clock(), Observer()
    watch = EpochWatch(0, Workers(), observer, clock)
    watch.begin_epoch(1, 3, [10] * 100)
    clock.now += 30.0
    assert watch.is_due()
    watch.check(4, losses_of(1.0, 1.0, 1.0, math.inf))
    assert observer.shown[0].images_per_s == pytest.approx(10 / 30)
    assert math.isnan(observer.shown[0].loss)
    assert not watch.is_due()


def test_without_an_observer_nothing_is_due() -> None:
    clock = Clock()
    watch = EpochWatch(0, Workers(), None, clock)
    clock.now += 100.0
    assert not watch.is_due()


def test_a_long_epoch_is_saved_every_ten_minutes() -> None:
    clock = Clock()
    watch = EpochWatch(0, Workers(), Observer(), clock)
    watch.begin_epoch(1, 0, [10] * 100)
    saves = []
    for step in range(1, 50):
        clock.now += 100.0
        if step == 20:
            watch.note_save()  # the checkpoint of `training.checkpoint_every_steps`
        if watch.check(step, losses_of(*[1.0] * step)).save:
            saves.append(step)
    assert saves == [6, 12, 18, 26, 32, 38, 44]


def begin(trial: Trial, observer: Observer) -> Reports:
    """Train until the observer asks to leave."""
    trial._watch = EpochWatch(0, trial.workers, observer)
    reports: Reports = []
    with contextlib.suppress(LeaveTrial):
        trial.run(lambda epoch, metrics: reports.append({"epoch": epoch, **metrics}))
    return reports


def train(
    data: DeviceImages, folder: Path, leave_at: int | None, *, asks: bool = True, **options: Any
) -> tuple[Trial, Reports]:
    """Train to the end; where this rank asks, leave at the n-th check, resume, and leave again two checks later."""
    options = {**SETTINGS, **options}
    if leave_at is None:
        trial = make_trial(data, folder, **options)
        return trial, run(trial)
    reports: Reports = []
    for leaves in (leave_at, 2, None):
        trial = make_trial(data, folder, **options)
        reports += begin(trial, Observer(leaves if asks else None))
        assert (trial.step > 0) == (leaves is not None)  # it was left within an epoch
    newest = {report["epoch"]: report for report in reports}
    return trial, [newest[epoch] for epoch in sorted(newest)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DeviceImages:
    return few_digits(tmp_path_factory.mktemp("digits"))


@pytest.fixture
def checks_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial_module, "build_network", with_everything)
    monkeypatch.setattr(epoch_watch, "CHECK_INTERVAL_S", 0.0)


@pytest.mark.usefixtures("checks_at_every_step")
@pytest.mark.parametrize("leave_at", [1, 5, 9, 13])
def test_an_epoch_that_was_left_at_any_step_resumes_bit_equal(
    data: DeviceImages, tmp_path: Path, leave_at: int
) -> None:
    whole, expected = train(data, tmp_path / "whole", None)
    trial, reports = train(data, tmp_path / "left", leave_at)
    assert timeless(reports) == timeless(expected)
    assert differences(trial.train_state.state_dict(), whole.train_state.state_dict()) == []


@pytest.mark.usefixtures("checks_at_every_step")
def test_a_trial_leaves_after_the_step_of_the_request_and_resumes_there(data: DeviceImages, tmp_path: Path) -> None:
    observer = Observer(leave_at=12)  # nine checks an epoch: after every step but the last, which the report follows
    reports = begin(make_trial(data, tmp_path, **SETTINGS), observer)
    assert [report["epoch"] for report in reports] == [1]
    assert [(shown.epoch, shown.step) for shown in observer.shown][-4:] == [(1, 9), (2, 1), (2, 2), (2, 3)]
    resumed = make_trial(data, tmp_path, **SETTINGS)
    assert (resumed.epoch, resumed.step) == (1, 3)


@pytest.mark.usefixtures("checks_at_every_step")
def test_buffers_of_another_network_are_refused(data: DeviceImages, tmp_path: Path) -> None:
    trial = make_trial(data, tmp_path, **SETTINGS)
    state = {"epoch": 0, "step": 3, "losses": torch.zeros(10, dtype=torch.float64), "metrics": {}, "best": {}}
    trial.checkpoints.save_state({**state, **trial.train_state.state_dict(), "rank_buffers": torch.zeros(2, 5)})
    with pytest.raises(CheckpointError, match="its buffers are not those of the network"):
        make_trial(data, tmp_path, **SETTINGS)


# Two workers


CASES: dict[str, tuple[int, dict[str, Any]]] = {  # check at which one of the ranks asks to leave, and settings
    "broadcast": (11, {}),
    "reduce": (4, {"dist_bn": "reduce"}),
    "none, with checkpoints": (5, {"dist_bn": "none", "checkpoint_every_steps": 7}),
}


def leave_rank(rank: int, world_size: int, folder: str) -> None:
    """Train uninterrupted trials, and trials that are left twice, as one of several processes."""
    place = Path(folder)
    workers = join_group(rank, world_size, place)
    trial_module.build_network = with_everything
    epoch_watch.CHECK_INTERVAL_S = 1e-9  # a check after every step
    data = few_digits(place / f"data-{rank}")
    found: dict[str, Any] = {}
    for case, (leave_at, options) in CASES.items():
        for way in ("whole", "left"):
            trial, reports = train(
                data,
                place / case / way,
                leave_at if way == "left" else None,
                asks=rank == leave_at % 2,
                workers=workers,
                epochs=2,
                **options,
            )
            buffers = trial.train_state.rank_buffers()
            assert buffers is not None
            state = {**trial.train_state.state_dict(), "own": buffers[rank].clone()}
            found[f"{case}/{way}"] = {"state": state, "reports": timeless(reports)}
    torch.save(found, place / f"rank-{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_an_epoch_that_two_workers_left_resumes_bit_equal(tmp_path: Path) -> None:
    run_ranks(leave_rank, 2, str(tmp_path))
    for rank in range(2):
        found = torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True)
        for case in CASES:
            assert differences(found[f"{case}/left"], found[f"{case}/whole"]) == [], (rank, case)
