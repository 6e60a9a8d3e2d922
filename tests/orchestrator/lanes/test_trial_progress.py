"""Messages about the progress of an epoch: their rate, the hub's answers, and how a trial leaves its epoch."""

from __future__ import annotations

import asyncio
import pickle
import time
from dataclasses import replace
from typing import Any

import pytest
from ray.exceptions import RayActorError

from orchestrator.lanes.hub import running_epochs
from orchestrator.lanes.hub.hub import LaneHub
from orchestrator.lanes.messages import Next, Outcome, ProgressAnswer, TrialOutcome
from orchestrator.lanes.worker import trial_progress
from orchestrator.lanes.worker.trial_progress import TrialProgress
from orchestrator.records.folder.live_progress import EpochProgress
from tests.support.hub.hub_calls import A, B, finishing, in_loop, rank_id, reporting, settled, short_waits, started

__all__ = ["short_waits"]  # a fixture

PROGRESS = EpochProgress(trial=7, epoch=1, step=10, steps=100, images_per_s=50.0, loss=2.0, left_s=90.0, epoch_s=100.0)
INTERRUPTED = TrialOutcome(Outcome.INTERRUPTED)


class RecordingHub:
    """Hub in this process, whose answers arrive when the test wants them."""

    def __init__(self) -> None:
        self.progress = self
        self.received: list[EpochProgress] = []
        self.answers: dict[int, Any] = {}

    def remote(self, _: Any, trial_id: str, progress: EpochProgress) -> int:
        assert trial_id == "a"
        self.received.append(progress)
        return len(self.received)

    def wait(self, references: list[int], timeout: float) -> tuple[list[int], list[int]]:
        assert timeout == 0
        return [each for each in references if each in self.answers], []

    def get(self, reference: int) -> Any:
        answer = self.answers[reference]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def answer(self, leave_in_s: float | None = None, every_s: float = 2.0) -> None:
        self.answers[len(self.received)] = ProgressAnswer(leave_in_s, every_s)


class Rank:
    """First rank of a trial, checked by a clock that the test sets."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.hub, self.now, self.preempted = RecordingHub(), 0.0, False
        patch.setattr(trial_progress.ray, "wait", self.hub.wait)
        patch.setattr(trial_progress.ray, "get", self.hub.get)
        self.trial = TrialProgress(
            self.hub, rank_id(0), "a", is_preempted=lambda: self.preempted, clock=lambda: self.now
        )

    def check(self, seconds: float = 2.0, left_s: float = 90.0) -> bool:
        """Check some seconds later, as the training loop does; return whether to leave."""
        self.now += seconds
        leaves = self.trial.wants_leave(left_s)
        self.trial.show(replace(PROGRESS, left_s=left_s))
        return leaves


@pytest.fixture
def rank(monkeypatch: pytest.MonkeyPatch) -> Rank:
    return Rank(monkeypatch)


def test_there_is_one_message_on_its_way_at_most(rank: Rank) -> None:
    for _ in range(10):
        rank.check()
    assert len(rank.hub.received) == 1
    rank.hub.answer()
    rank.check()
    assert len(rank.hub.received) == 2


def test_the_hub_sets_the_interval(rank: Rank) -> None:
    for _ in range(50):
        rank.check()
        rank.hub.answer(every_s=10.0)
    assert len(rank.hub.received) == 1 + (100 - 4) // 10


def test_epochs_of_less_than_five_seconds_send_nothing(rank: Rank) -> None:
    for _ in range(10):
        rank.check(2.0, left_s=2.5)
        rank.check(2.0, left_s=0.5)
        rank.trial.note_report()
    assert rank.hub.received == []
    rank.check(3.0, left_s=1.9)
    assert rank.hub.received == []
    rank.check(1.0, left_s=1.0)
    assert len(rank.hub.received) == 1


def test_a_trial_leaves_where_its_epoch_ends_after_the_time_that_is_left(rank: Rank) -> None:
    assert not rank.check(4.0)
    rank.hub.answer(leave_in_s=15.0)  # from the time of the message, 4.0
    assert not rank.check(2.0, left_s=13.0)
    assert rank.check(0.5, left_s=12.6)
    assert not rank.check(0.5, left_s=11.9)
    assert rank.check(12.1, left_s=0.1)


def test_a_trial_trains_on_without_an_answer_and_after_the_loss_of_the_hub(rank: Rank) -> None:
    rank.check(4.0)
    assert not rank.check(100.0)
    rank.hub.answers[1] = RayActorError()
    assert not rank.check()
    assert len(rank.hub.received) == 2


def test_a_preemption_leaves_any_epoch(rank: Rank) -> None:
    rank.preempted = True
    assert rank.check(0.1, left_s=0.5)


# Hub


@in_loop
async def test_the_hub_keeps_the_newest_progress_of_each_trial_that_trains() -> None:
    hub = LaneHub()
    await started(hub)
    assert (await hub.hub_state()).progress == {}
    for step in (10, 20):
        answer = await hub.progress(rank_id(0), "a", replace(PROGRESS, step=step))
        assert answer == ProgressAnswer(None, 2.0)
    assert (await hub.hub_state()).progress == {7: replace(PROGRESS, step=20)}
    await hub.progress(rank_id(0), "b", PROGRESS)  # a trial that has lost its lane
    await hub.progress(rank_id(0, generation=0), "a", PROGRESS)  # a worker group that was replaced
    assert (await hub.hub_state()).progress == {7: replace(PROGRESS, step=20)}
    ranks = reporting(hub, 1)
    await hub.next_event(A, 0, 0)
    await hub.release("a")
    await asyncio.gather(*ranks, *finishing(hub, INTERRUPTED, INTERRUPTED))
    assert (await hub.hub_state()).progress == {}


@in_loop
async def test_a_trial_that_left_its_epoch_is_interrupted_and_its_lane_is_kept() -> None:
    hub = LaneHub()
    await started(hub)
    event = asyncio.ensure_future(hub.next_event(A, 0, 0))
    await settled()
    before_s = time.monotonic()
    await hub.wind_down(15.0)
    answer = await hub.progress(rank_id(0), "a", PROGRESS)
    assert answer.leave_in_s is not None
    assert 15.0 - (time.monotonic() - before_s) <= answer.leave_in_s <= 15.0
    await hub.wind_down(0.0)
    assert (await hub.progress(rank_id(0), "a", PROGRESS)).leave_in_s == 0.0
    assert await settled(event) == [False]
    assert await asyncio.gather(*finishing(hub, INTERRUPTED, INTERRUPTED)) == [Next.STAY] * 2
    assert await event == INTERRUPTED
    assert await hub.lease(B) is None


@in_loop
async def test_a_closing_hub_has_trials_leave_at_once() -> None:
    hub = LaneHub()
    await started(hub)
    await hub.close()
    assert (await hub.progress(rank_id(0), "a", PROGRESS)).leave_in_s == 0.0


def test_a_thousand_lanes_send_a_hundred_messages_a_second_and_a_state_stays_small() -> None:
    answer = running_epochs.RunningEpochs().answer(1000, closing=False)
    assert answer == ProgressAnswer(None, 10.0)
    state = {number: replace(PROGRESS, trial=number) for number in range(1000)}
    assert len(pickle.dumps(state)) < 200_000
