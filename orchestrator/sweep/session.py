"""One session of a sweep: from the lanes' start to their end, as far as the sweep gets in it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

import optuna
from rich.console import Console

from orchestrator.config.sweep import SweepConfig
from orchestrator.errors import ClusterError, RayLostError
from orchestrator.lanes.lane_setting import LaneTask
from orchestrator.lanes.pool.lane_pool import LanePool, root_cause
from orchestrator.plain_output import say
from orchestrator.progress.notebook_view import NotebookDisplay
from orchestrator.progress.progress_view import Progress
from orchestrator.records.budget import Budget
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.records.ledger import Ledger, TrialStatus
from orchestrator.runtime.lane_plan import LanePlan, plan_lanes
from orchestrator.runtime.ray_session import ray_session
from orchestrator.runtime.raylet import LocalRaylet
from orchestrator.search.first_trials import enqueue_first
from orchestrator.search.space_summary import space_words
from orchestrator.search.storage import open_storage, study_uri
from orchestrator.search.study import open_study
from orchestrator.search.study_replay import continue_study
from orchestrator.search.tune_run import TuneRun
from orchestrator.sweep.checkpoint_retention import Retention
from orchestrator.sweep.disk_watch import RoomWatch
from orchestrator.sweep.signals import Interruption

logger = logging.getLogger(__name__)

_UPDATE_S = 0.5
_URGENT_PATIENCE_S = 1.0


class SweepSession:
    """Trains what is left of a sweep, on lanes of its own.

    Args:
        config: Of the sweep.
        folder: Of the sweep; this process drives it.
        ledger: Of the sweep, with what earlier sessions have done.
        dataset: As `locate_dataset` found it.
        console: Where progress is shown.
        interruption: Heard while trials train.
        display: Of a notebook, where progress is shown in place of the console.
    """

    def __init__(
        self,
        config: SweepConfig,
        folder: SweepFolder,
        ledger: Ledger,
        *,
        dataset: str,
        console: Console,
        interruption: Interruption,
        display: NotebookDisplay | None = None,
    ) -> None:
        self._config = config
        self._folder = folder
        self._ledger = ledger
        self._dataset = dataset
        self._console = console
        self._interruption = interruption
        self._display = display
        self._retention = Retention(config, folder, ledger)
        self._budget = Budget(config.budget, config.objective)
        self._plan: LanePlan | None = None

    @contextlib.contextmanager
    def resources(self, address: str | None, *, verbose: bool = False) -> Iterator[None]:
        """Holds the Ray session and the plan of lanes; neither is needed where nothing is left to train."""
        if self._nothing_to_do():
            yield
            return
        left = self._config.trials - self._ledger.count_ended()
        with ray_session(address, verbose=verbose):
            self._plan = plan_lanes(self._config.resources, left)
            yield

    def run(self) -> TrialStatus:
        """Trains until the trials are used up, or the sweep is to stop.

        Returns:
            How the sweep stands: `finished` or `interrupted`.

        Raises:
            ClusterError: No lane could be kept alive.
            ResumeError: The study is not the one of this sweep.
        """
        if self._plan is None:
            if self._ledger.count_ended() < self._config.trials:
                self._ledger.budget_spent(self._nothing_to_do())
            self._console.print(f"Sweep {self._folder.name}: {self._nothing_to_do()}", highlight=False)
            return TrialStatus.FINISHED
        with self._lanes(self._plan) as lanes:  # whose processes start while the study is opened
            study = self._open_study()
            self._ledger.lanes_planned(
                self._plan.lanes,
                self._plan.workers,
                self._config.resources.cpus_per_worker,
                self._plan.gpus_per_worker,
            )
            progress = Progress(self._config, self._ledger, self._plan, self._console, self._display)
            progress.say(self._announcement(self._plan))
            with progress:
                search = TuneRun(
                    self._config,
                    self._folder,
                    study,
                    self._ledger,
                    hub=lanes.hub,
                    lanes=self._plan.at_most,
                    has_room=lanes.has_room,
                    say=progress.say,
                )
                return self._search(search, lanes, progress)

    def _lanes(self, plan: LanePlan) -> LanePool:
        config = self._config
        return LanePool(
            plan,
            config.resources,
            LaneTask(config.dataset, self._dataset, config.objective, config.measured_costs),
            scratch=self._folder.scratch / "ray",
        )

    def _open_study(self) -> optuna.Study:
        """The study as the ledger knows it, with what is to be tried first."""
        storage = open_storage(study_uri(self._config, self._folder.path.parent))
        study = open_study(self._config, self._folder.name, storage, resumed=self._ledger.sessions > 1)
        if not self._ledger.trials():
            self._queue_first(study, storage)
        continue_study(study, self._ledger, self._config)
        return study

    def _nothing_to_do(self) -> str:
        """Why no trial is to be trained in this session; empty when some are."""
        if self._ledger.count_ended() >= self._config.trials:
            return f"all {self._config.trials} trials are done"
        return self._budget.exhausted_limit(self._ledger.totals()) or ""

    def _queue_first(self, study: optuna.Study, storage: optuna.storages.RDBStorage) -> None:
        """Has the papers' own values tried before any other, and the best ones of earlier sweeps."""
        for heading, text in space_words(self._config):
            say(self._console, f"{heading}: {text}")
        enqueue_first(study, self._config, storage, lambda text: say(self._console, text))

    def _announcement(self, plan: LanePlan) -> str:
        config, over = self._config, self._ledger.count_ended()
        least = f"{config.resources.min_workers} to " if config.resources.elastic else ""
        done = f", {over} of them done before" if over else ""
        return (
            f"Sweep {self._folder.name}: {config.trials} trials{done}, of at most {config.max_epochs} epochs, "
            f"{plan.lanes} lane(s) of {least}{plan.workers} worker(s) on {'GPU' if plan.gpus_per_worker else 'CPU'}"
        )

    def _search(self, search: TuneRun, lanes: LanePool, progress: Progress) -> TrialStatus:
        """Lets Tune run in a thread of its own, so that this one shows progress, minds the budget and hears Ctrl-C."""
        stopping, reason, lost, raylet = self._interruption, "", False, LocalRaylet()
        room = RoomWatch(self._folder, self._ledger, progress.say)
        search.start()
        try:
            while search.running and lanes.alive and not reason and not raylet.gone:
                self._look(search, progress, room)
                reason = self._reason_to_stop(search)
            if reason and not stopping.urgent:
                hint = " Ctrl-C again stops at once." if stopping.asked else ""
                progress.say(f"Stopping after the epochs now running: {reason}.{hint}")
                search.wind_down()
            while search.running and lanes.alive and not stopping.urgent and not raylet.gone:
                lanes.wind_down()
                self._look(search, progress, room)
            lost = search.running and not lanes.alive
        finally:
            search.end(reason or "the sweep is over")
            if raylet.gone:
                lanes.abandon()
            else:
                lanes.close(_URGENT_PATIENCE_S if stopping.urgent else None)
                search.join()
        progress.update()
        self._retention.apply()
        if not (raylet.gone and self._nothing_to_do()):  # Ray may end under what takes everything down
            self._raise_failure(search, lanes, raylet, lost=lost)
        return TrialStatus.INTERRUPTED if stopping.asked else TrialStatus.FINISHED

    def _raise_failure(self, search: TuneRun, lanes: LanePool, raylet: LocalRaylet, *, lost: bool) -> None:
        if raylet.gone:
            raise RayLostError(raylet.loss)
        if lost and lanes.failure is not None:
            raise ClusterError(f"no lane could be kept alive: {root_cause(lanes.failure)}") from lanes.failure
        if search.failure is not None:
            raise search.failure

    def _reason_to_stop(self, search: TuneRun) -> str:
        """Why no more is to be trained although trials are left; empty to go on."""
        if self._interruption.asked:
            return "the sweep was interrupted"
        if search.running and (reason := self._budget.exhausted_limit(self._ledger.totals())):
            self._ledger.budget_spent(reason)
        return self._ledger.ended_by

    def _look(self, search: TuneRun, progress: Progress, room: RoomWatch) -> None:
        """Half a second of the sweep."""
        progress.update()
        room.look()
        self._retention.apply()
        search.wait(_UPDATE_S)
