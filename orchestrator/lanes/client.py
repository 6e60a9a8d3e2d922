"""Tune's trial actor: thin, without torch. It leases a lane, hands over the configuration and passes reports on."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from ray.tune import Trainable

from orchestrator.lanes.messages import Ending, Fate, Order
from orchestrator.lanes.trial_folder import trial_folder

TRIAL = "trial"
EPOCHS_DONE = "epochs_done"
EPOCH = "epoch"
REPORTED = "reported"
ENDED = "ended"
HELD = "held_s"


class TrialClient(Trainable):
    """One trial as Tune sees it; training happens on a lane.

    Tune's configuration holds the trial under `trial`, and under `epochs_done` how many of its epochs an earlier
    session of the sweep has heard of; one that the lane repeats is not passed on. A step is one epoch: it returns the
    metrics of the next report and, by asking for it, lets the lane go on. The driver releases the lane when Tune has
    ended the trial, so an actor that is kept for the next trial needs to do nothing in between.
    """

    def setup(self, config: Mapping[str, Any], hub: Any = None, trials_folder: str = "") -> None:
        """Keeps what every trial of this actor needs.

        Args:
            config: Tune's configuration of the trial.
            hub: Handle of the hub.
            trials_folder: Parent of the trials' folders.
        """
        self._hub = hub
        self._trials_folder = Path(trials_folder)
        self.reset_config(config)

    def reset_config(self, new_config: Mapping[str, Any]) -> bool:
        """Makes this actor the client of another trial; must not fail, so it does nothing that could."""
        self._trial = new_config[TRIAL]
        self._lane: int | None = None
        self._epoch: int = new_config[EPOCHS_DONE]
        self._leased = time.monotonic()
        return True

    def step(self) -> dict[str, Any]:
        """Waits for the next epoch of the trial, or its end."""
        order = Order(
            trial_id=self.trial_id,
            config=self._trial,
            folder=str(self._trials_folder / trial_folder(self._trial["number"])),
        )
        if self._lane is None:
            self._lane = ray.get(self._hub.lease.remote(order))
            self._leased = time.monotonic()
        if self._lane is None:
            return self._ended(Fate.INTERRUPTED)
        event = ray.get(self._hub.next_event.remote(order, self._lane, self._epoch))
        if isinstance(event, Ending):
            return self._ended(event.fate)
        self._epoch, self._lane = event.epoch, event.lane
        return {
            **event.metrics,
            REPORTED: dict(event.metrics),
            EPOCH: event.epoch,
            HELD: time.monotonic() - self._leased,
            "done": event.epoch >= self._trial["training"]["epochs"],
        }

    def _ended(self, fate: Fate) -> dict[str, Any]:
        return {"done": True, EPOCH: self._epoch, ENDED: str(fate)}
