"""Tune's trial actor: thin, without torch. It leases a lane, hands over the configuration and passes reports on."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from ray.tune import Trainable

from orchestrator.lanes.messages import Outcome, Report, TrialAssignment, TrialOutcome
from orchestrator.lanes.weight_transfer import WeightTransfer, changed_config
from orchestrator.records.folder.trial_folder import trial_folder

TRIAL = "trial"
EPOCHS_DONE = "epochs_done"
EPOCH = "epoch"
REPORTED = "reported"
ENDED = "ended"
HELD = "held_s"
LANE = "lane"
NODES = "nodes"
_POLL_S = 0.2


class TrialClient(Trainable):
    """One trial as Tune sees it; training happens on a lane.

    Tune's configuration holds the trial under `trial`, and under `epochs_done` how many of its epochs an earlier
    session of the sweep has heard of; one that the lane repeats is not passed on. A step is one epoch: it returns the
    next report, whole under `reported`, and, by asking for it, lets the lane go on. A trial that diverged or failed
    ends like any other, with its fate under `ended`, so that an error means one thing to Tune: this actor has died, and
    another is to take its place. The driver releases the lane when Tune has ended the trial, so an actor that is kept
    for the next trial needs to do nothing in between.
    """

    def setup(self, config: Mapping[str, Any], hub: Any = None, trials_folder: str = "", metric: str = "") -> None:
        """Keeps what every trial of this actor needs.

        Args:
            config: Tune's configuration of the trial.
            hub: Handle of the hub.
            trials_folder: Parent of the trials' folders.
            metric: What Tune and its scheduler decide by.
        """
        self._hub = hub
        self._trials_folder = Path(trials_folder)
        self._metric = metric
        self.reset_config(config)

    def reset_config(self, new_config: Mapping[str, Any]) -> bool:
        """Makes this actor the client of another trial; must not fail, so it does nothing that could."""
        self._trial = new_config[TRIAL]
        self._lane: int | None = None
        self._epoch: int = new_config[EPOCHS_DONE]
        self._leased = time.monotonic()
        self._held_s = 0.0  # on lanes it has given back
        self._repeats = False  # whether the next report is one of a trial it goes on from
        return True

    def step(self) -> dict[str, Any]:
        """Waits for the next epoch of the trial, or its end."""
        folder = self._trials_folder / trial_folder(self._trial["number"])
        if not self._hand_over(folder):
            return self._ended(Outcome.INTERRUPTED)
        if self._lane is None:
            self._trial = changed_config(folder) or self._trial
        assignment = TrialAssignment(trial_id=self.trial_id, config=self._trial, folder=str(folder))
        if self._lane is None:
            self._lane = ray.get(self._hub.lease.remote(assignment))
            self._leased = time.monotonic()
        if self._lane is None:
            return self._ended(Outcome.INTERRUPTED)
        event = self._next_event(assignment)
        if isinstance(event, TrialOutcome):
            return self._ended(event.kind)
        self._epoch, self._lane = event.epoch, event.lane
        return {
            **{name: value for name, value in event.metrics.items() if name == self._metric},
            REPORTED: tuple(event.metrics.items()),  # of a dict, Tune would keep statistics of every number
            EPOCH: event.epoch,
            HELD: self._held_s + time.monotonic() - self._leased,
            LANE: event.lane,
            NODES: event.nodes,
            "done": event.epoch >= self._trial["training"]["epochs"],
        }

    def _next_event(self, assignment: TrialAssignment) -> Report | TrialOutcome:
        """What comes after the newest epoch; a trial that goes on from another passes over the other's report."""
        event: Report | TrialOutcome
        if self._repeats:
            self._repeats = False
            event = ray.get(self._hub.next_event.remote(assignment, self._lane, 0))
            if isinstance(event, TrialOutcome) or event.epoch >= self._trial["training"]["epochs"]:
                return event
            self._epoch, self._lane = event.epoch, event.lane
        event = ray.get(self._hub.next_event.remote(assignment, self._lane, self._epoch))
        return event

    def _hand_over(self, folder: Path) -> bool:
        """Does what a note in the trial's folder says, if there is one; false when the sweep ends meanwhile.

        While a trial waits for others, its lane is theirs; with a donor, it goes on from the donor's weights on the
        next lane it gets.
        """
        while (note := WeightTransfer.read(folder)) is not None:
            forced = note.donor is not None
            if self._lane is not None and ray.get(self._hub.yield_lane.remote(self.trial_id, forced=forced)):
                self._held_s += time.monotonic() - self._leased
                self._lane = None
            if not note.waits:
                note.apply(folder)
                self._repeats = forced
            elif ray.get(self._hub.is_ending.remote()):
                return False
            else:
                time.sleep(_POLL_S)
        return True

    def _ended(self, kind: Outcome) -> dict[str, Any]:
        return {"done": True, EPOCH: self._epoch, ENDED: str(kind)}
