"""Tune's trial actor: leases a lane, passes the configuration to it and reports to Tune; imports no torch."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from ray.tune import Trainable

from orchestrator.lanes.messages import Outcome, Report, TrialAssignment, TrialOutcome
from orchestrator.lanes.tune_keys import ENDED, EPOCH, EPOCHS_DONE, FAILURES, HELD, LANE, NODES, REPORTED, TRIAL
from orchestrator.lanes.weight_transfer import WeightTransfer, changed_config
from orchestrator.records.folder.trial_folder import trial_folder

_POLL_S = 0.2


def first_assignment(tune_id: str, config: Mapping[str, Any], trials_folder: Path) -> TrialAssignment:
    """Return the trial for a lane, until its configuration changes.

    Args:
        tune_id: Tune's id of the trial.
        config: Tune's configuration of the trial.
        trials_folder: Parent of the trials' folders.
    """
    folder = trials_folder / trial_folder(config[TRIAL]["number"])
    return TrialAssignment(tune_id, dict(config[TRIAL]), str(folder), failures=config[FAILURES])


class TrialClient(Trainable):
    """One trial in Tune's experiment, in an actor of its own; training happens on a lane.

    Tune's configuration has the trial under `trial`, under `epochs_done` the number of its epochs that were received
    before a pause or in earlier sessions, and under `failures` that of its failures; an epoch that the lane repeats is
    not reported again. A step is one report: it
    acknowledges the last one, which lets the lane continue, and blocks until the next one, which it returns whole
    under `reported`. A trial that diverged or failed ends like any other, with its outcome under `ended`: to Tune, an
    error means that this actor has died. The driver releases the lane when Tune has ended the trial,
    so an actor that is reused for the next trial needs no cleanup in between.
    """

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        # Tune would change to a folder of the trial, in which a relative path means something else.
        os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
        super().__init__(*arguments, **settings)

    def setup(self, config: Mapping[str, Any], hub: Any = None, trials_folder: str = "", metric: str = "") -> None:
        """Store what every trial of this actor needs.

        Args:
            config: Tune's configuration of the trial.
            hub: Handle of the hub.
            trials_folder: Parent of the trials' folders.
            metric: Name of the metric by which Tune's scheduler decides.
        """
        self._hub = hub
        self._trials_folder = Path(trials_folder)
        self._metric = metric
        self.reset_config(config)

    def reset_config(self, new_config: Mapping[str, Any]) -> bool:
        """Make this actor the client of another trial; it must not fail, so it only assigns attributes."""
        self._trial: Mapping[str, Any] = dict(new_config[TRIAL])
        self._lane: int | None = None
        self._epoch: int = new_config[EPOCHS_DONE]
        self._failures: int = new_config[FAILURES]
        self._held_s = 0.0  # as the hub has counted it
        return True

    def step(self) -> dict[str, Any]:
        """Return the next epoch of the trial, or its end; blocks."""
        folder = self._trials_folder / trial_folder(self._trial["number"])
        if not self._apply_transfer(folder):
            return self._ended(Outcome.INTERRUPTED)
        if self._lane is None:
            self._trial = changed_config(folder) or self._trial
        assignment = TrialAssignment(
            self.trial_id, self._trial, str(folder), failures=self._failures, held_s=self._held_s
        )
        if self._lane is None:
            self._lane = ray.get(self._hub.lease.remote(assignment))
        if self._lane is None:
            return self._ended(Outcome.INTERRUPTED)
        event: Report | TrialOutcome = ray.get(self._hub.next_event.remote(assignment, self._lane, self._epoch))
        if isinstance(event, TrialOutcome):
            return self._ended(event.kind)
        self._epoch, self._lane, self._held_s = event.epoch, event.lane, event.held_s
        return {
            **{name: value for name, value in event.metrics.items() if name == self._metric},
            REPORTED: tuple(event.metrics.items()),  # of a dict, Tune would keep statistics of every number
            EPOCH: event.epoch,
            FAILURES: event.failures,
            HELD: event.held_s,
            LANE: event.lane,
            NODES: event.nodes,
            "done": event.epoch >= self._trial["training"]["epochs"],
        }

    def _apply_transfer(self, folder: Path) -> bool:
        """Carry out the weight transfer in the trial's folder, if there is one; False when the sweep ends meanwhile.

        While a trial waits for others, its lane is free for them; with a donor, it resumes from the donor's weights on
        the next lane that it leases. The donor's epoch counts as received, so that its report, which the lane repeats,
        is not taken for one of the trial.

        Raises:
            CheckpointError: The donor's checkpoints are missing.
        """
        while (note := WeightTransfer.read(folder)) is not None:
            forced = note.donor is not None and not note.waits
            # The actor before this one may have died on a lane, where the trial would continue from its own weights.
            asks = forced or self._lane is not None
            if asks and ray.get(self._hub.yield_lane.remote(self.trial_id, forced=forced)):
                self._lane = None
            if not note.waits:
                note.apply(folder)
                self._epoch = self._epoch if note.epoch is None else note.epoch
            elif ray.get(self._hub.is_ending.remote()):
                return False
            else:
                time.sleep(_POLL_S)
        return True

    def _ended(self, kind: Outcome) -> dict[str, Any]:
        return {"done": True, EPOCH: self._epoch, ENDED: str(kind)}


def client_of_sweep(hub: Any, trials_folder: Path, metric: str) -> type[TrialClient]:
    """Return the class of the trial actors of one sweep.

    What they need is part of the class. `tune.with_parameters` would put it into Ray's object store, and Ray ends a
    driver without a message when its node is lost while the store holds objects of it.

    Args:
        hub: Handle of the hub.
        trials_folder: Parent of the trials' folders.
        metric: Name of the metric by which Tune's scheduler decides.
    """

    class SweepTrialClient(TrialClient):
        def setup(self, config: Mapping[str, Any]) -> None:  # type: ignore[override]  # Tune passes no more
            super().setup(config, hub=hub, trials_folder=str(trials_folder), metric=metric)

    return SweepTrialClient
