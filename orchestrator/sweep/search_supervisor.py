"""Supervision of a search: the main thread polls, ends the search for a reason, and closes the lanes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from orchestrator.errors import ClusterError, RayLostError, StorageFullError
from orchestrator.lanes.pool.lane_pool import LanePool, root_cause
from orchestrator.records.budget import Budget
from orchestrator.records.ledger import Ledger
from orchestrator.runtime.raylet import LocalRaylet
from orchestrator.search.tune_run import TuneRun
from orchestrator.sweep.signals import SignalWatch

_POLL_S = 0.5
GRACE_S = 15.0
"""Seconds in which running epochs may end once the search is to end; longer ones are left within, and resume there."""

_URGENT_TIMEOUT_S = 1.0
_RAYLET_POLL_S = 0.1


class SearchSupervisor:
    """Supervisor of one search; runs in the driver's main thread, while Tune runs in the thread "tune".

    Args:
        search: Search that has not started.
        lanes: Open lanes.
        ledger: Ledger of the sweep.
        budget: Limits that end the search early.
        signals: Requests to stop.
        say: Called with a line for the user.
        polls: Called every half second, in order.
    """

    def __init__(
        self,
        search: TuneRun,
        lanes: LanePool,
        ledger: Ledger,
        *,
        budget: Budget,
        signals: SignalWatch,
        say: Callable[[str], None],
        polls: Sequence[Callable[[], None]],
    ) -> None:
        self._search = search
        self._lanes = lanes
        self._ledger = ledger
        self._budget = budget
        self._signals = signals
        self._say = say
        self._polls = polls
        self._raylet = LocalRaylet()
        self._reason = ""
        self._all_lanes_lost = False
        self._closing_failure: Exception | None = None

    @property
    def ray_is_gone(self) -> bool:
        """True if Ray has ended on this node."""
        return self._raylet.gone

    def run(self) -> None:
        """Start the search and block until it has ended, has wound down, or has to be ended at once."""
        self._search.start()
        while self._goes_on() and not self._reason:
            self._poll()
            self._reason = self._stop_reason()
        if self._reason and not self._signals.urgent:
            hint = " Ctrl-C again stops at once." if self._signals.stop_requested else ""
            longer = f"those that take over {GRACE_S:g} s more are left at a checkpoint"
            self._say(f"Stopping after the epochs now running; {longer}: {self._reason}.{hint}")
            self._search.wind_down()
        leave_at_s = time.monotonic() + GRACE_S
        while self._goes_on() and not self._signals.urgent:
            self._lanes.wind_down(max(0.0, leave_at_s - time.monotonic()))
            self._poll()
        self._all_lanes_lost = self._search.running and not self._lanes.alive

    def close(self) -> None:
        """End what still runs, close the lanes, and wait for Tune; leave them where Ray has ended, or ends meanwhile.

        A job manager may send SIGTERM to all processes of a job, Ray's among them.
        """
        try:
            self._search.end(self._reason or "the sweep is over")
        finally:  # also where the journal has no room for the ends of the trials
            self._leave_lanes()

    def _leave_lanes(self) -> None:
        """Close the lanes and wait for Tune, or abandon them where Ray has ended."""
        closing = threading.Thread(target=self._close_lanes, name="closing", daemon=True)
        if not self._raylet.gone:
            closing.start()
        while closing.is_alive() and not self._raylet.gone:
            closing.join(_RAYLET_POLL_S)
        if self._raylet.gone:
            self._lanes.abandon()
        elif self._closing_failure is not None:
            raise self._closing_failure

    def _close_lanes(self) -> None:
        """Close the lanes and wait for Tune; body of the thread "closing", since a lost cluster may never answer."""
        try:
            self._lanes.close(_URGENT_TIMEOUT_S if self._signals.urgent else None)
            self._search.join()
        except Exception as error:  # handed to the main thread, which raises it
            self._closing_failure = error

    def raise_failure(self) -> None:
        """Raise the failure that ended the search; return where there was none.

        Raises:
            RayLostError: Ray has ended on this node, and not because everything was to end at once.
            ClusterError: No lane could be kept alive.
            StorageFullError: The storage had no room for a checkpoint.
        """
        if self._raylet.gone:
            if self._signals.urgent:
                return
            raise RayLostError(self._raylet.loss)
        if self._all_lanes_lost and self._lanes.failure is not None:
            failure = self._lanes.failure
            raise ClusterError(f"no lane could be kept alive: {root_cause(failure)}") from failure
        if self._search.disk_full:
            raise StorageFullError(f"the disk is full: {self._search.disk_full}")
        if self._search.failure is not None:
            raise self._search.failure

    def _goes_on(self) -> bool:
        return self._search.running and self._lanes.alive and not self._raylet.gone

    def _stop_reason(self) -> str:
        """Return why the search is to end although trials are left; empty where it is not."""
        if self._signals.stop_requested:
            return "the sweep was interrupted"
        if self._search.disk_full:
            return "the disk is full"
        if self._search.running and (reason := self._budget.exhausted_limit(self._ledger.totals())):
            self._ledger.budget_spent(reason)
        return self._ledger.ended_by

    def _poll(self) -> None:
        for poll in self._polls:
            poll()
        self._search.wait(_POLL_S)
