"""One session of a sweep: `SweepSession` takes it through its six phases.

1. Connect to Ray and plan the lanes.
2. Open the lanes.
3. Open the study and replay into it what earlier sessions recorded.
4. Search: Tune runs in the thread "tune", the main thread supervises it.
5. End the search and close the lanes.
6. Apply the retention of checkpoints and raise the failure, if there was one.

The start (folder, lock, journal) and the end (tables, MLflow) of a session are in `run` and `finalize`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import optuna
from rich.console import Console

from orchestrator.config.plans import SweepPlans
from orchestrator.config.sections.budget import BudgetConfig
from orchestrator.lanes.lane_setting import LaneTask
from orchestrator.lanes.pool.lane_pool import LanePool
from orchestrator.plain_output import say
from orchestrator.progress.notebook_view import NotebookDisplay
from orchestrator.progress.progress_view import Progress
from orchestrator.progress.snapshot import Snapshots
from orchestrator.records.budget import Budget
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.records.ledger import Ledger, TrialStatus
from orchestrator.records.objectives import Objectives
from orchestrator.runtime.lane_plan import LanePlan, plan_lanes
from orchestrator.runtime.ray_session import ray_session
from orchestrator.search.schedulers.trial_schedulers import create_allocation
from orchestrator.search.tune_run import TuneRun
from orchestrator.sweep.checkpoint_retention import CheckpointRetention
from orchestrator.sweep.disk_watch import DiskWatch
from orchestrator.sweep.search_supervisor import SearchSupervisor
from orchestrator.sweep.signals import SignalWatch
from orchestrator.sweep.study_setup import set_up_study


class SweepSession:
    """Training of the trials that are left of a sweep; runs in the driver's main thread and blocks until its end.

    Args:
        plans: Plans of the sweep.
        folder: Folder of the sweep, locked by this process.
        ledger: Ledger of the sweep, with the events of earlier sessions.
        dataset: Dataset as `locate_dataset` returns it.
        console: Console for progress and messages.
        signals: Requests to stop.
        display: Output of a notebook, where progress is shown in place of the console.
    """

    def __init__(
        self,
        plans: SweepPlans,
        folder: SweepFolder,
        ledger: Ledger,
        *,
        dataset: str,
        console: Console,
        signals: SignalWatch,
        display: NotebookDisplay | None = None,
    ) -> None:
        self._plans = plans
        self._folder = folder
        self._ledger = ledger
        self._dataset = dataset
        self._console = console
        self._signals = signals
        self._display = display
        self._objectives = Objectives.of(plans.search.objectives, plans.search.constraints)
        self._budget = Budget(plans.budget, plans.search.objective)
        self._retention = CheckpointRetention(plans.keep, self._objectives, folder, ledger)
        self._lane_plan: LanePlan | None = None

    @contextlib.contextmanager
    def connected(self, address: str | None, *, verbose: bool = False) -> Iterator[None]:
        """Hold the connection to Ray and plan the lanes; does neither where no trial is left to train.

        Args:
            address: Address of a Ray cluster; None joins `RAY_ADDRESS` or starts a private instance.
            verbose: Shows the output of Ray and of its workers.

        Raises:
            ClusterError: The cluster does not answer, or cannot hold one trial.
        """
        if self._completion():
            yield
            return
        left = self._plans.search.trials - self._ledger.count_ended()
        with ray_session(address, verbose=verbose):  # 1. Connect to Ray and plan the lanes
            self._lane_plan = plan_lanes(self._plans.training.resources, left)
            yield

    def run(self) -> TrialStatus:
        """Train until the trials are used up, a limit is reached, or a stop is requested.

        Returns:
            Status of the sweep: `finished` or `interrupted`.

        Raises:
            ClusterError: No lane could be kept alive.
            ResumeError: The study is not the one of this sweep.
        """
        lane_plan = self._lane_plan
        if lane_plan is None:
            return self._end_without_training()
        with self._open_lanes(lane_plan) as lanes:  # 2. Their processes start while the study is opened
            study = set_up_study(  # 3.
                self._plans, self._ledger, self._objectives, lambda text: say(self._console, text)
            )
            with self._open_progress(lane_plan) as progress:
                supervisor = self._supervisor(study, lanes, lane_plan.at_most, progress)
                try:
                    supervisor.run()  # 4. Search
                finally:
                    supervisor.close()  # 5. End the search and close the lanes
                if not self._ledger.ended_by and self._ledger.count_ended() < self._plans.search.trials:
                    self._note_spent_epochs()
                progress.update()
                self._retention.apply()  # 6.
                if not (supervisor.ray_is_gone and self._completion()):  # what ends everything may end Ray first
                    supervisor.raise_failure()
                return TrialStatus.INTERRUPTED if self._signals.stop_requested else TrialStatus.FINISHED

    def _completion(self) -> str:
        """Return why no trial is left to train; empty where some are."""
        if all_done := self._all_done():
            return all_done
        return self._budget.exhausted_limit(self._ledger.totals()) or ""

    def _all_done(self) -> str:
        """Return that the trials are used up, as text; empty where they are not."""
        trials = self._plans.search.trials
        if self._ledger.count_ended() >= trials:
            return f"all {trials} trials are done"
        paused = self._ledger.count_paused()
        if not paused or self._ledger.open() or self._ledger.count_trials() < trials:
            return ""
        allocation = create_allocation(self._plans.search, self._ledger)
        if allocation is None or not allocation.is_finished or self._spent_epochs():
            return ""
        return f"all {trials} trials are done, {paused} of them paused"

    def _spent_epochs(self) -> str:
        """Return that `budget.epochs` is spent, as text; empty where it is not."""
        epochs = BudgetConfig(epochs=self._plans.budget.epochs)
        return Budget(epochs, self._plans.search.objective).exhausted_limit(self._ledger.totals()) or ""

    def _note_spent_epochs(self) -> None:
        """Record that `budget.epochs` is spent: the allocation rule ends the search itself at that limit."""
        if reason := self._spent_epochs():
            self._ledger.budget_spent(reason)

    def _end_without_training(self) -> TrialStatus:
        reason = self._completion()
        if not self._all_done():
            self._ledger.budget_spent(reason)
        self._console.print(f"Sweep {self._folder.name}: {reason}", highlight=False)
        return TrialStatus.FINISHED

    def _open_lanes(self, plan: LanePlan) -> LanePool:
        training = self._plans.training
        return LanePool(
            plan,
            training.resources,
            LaneTask(
                training.dataset,
                self._dataset,
                training.objective,
                training.costs,
                network_files=training.network_files,
            ),
            scratch=self._folder.scratch / "ray",
        )

    def _open_progress(self, plan: LanePlan) -> Progress:
        """Record the planned lanes and announce the search."""
        cpus_per_worker = self._plans.training.resources.cpus_per_worker
        self._ledger.lanes_planned(plan.lanes, plan.workers, cpus_per_worker, plan.gpus_per_worker)
        snapshots = Snapshots(
            self._ledger,
            plan,
            name=self._plans.name,
            trials=self._plans.search.trials,
            objectives=self._objectives,
            budget=self._budget,
            cpus_per_worker=cpus_per_worker,
        )
        progress = Progress(snapshots, self._console, self._display)
        progress.say(self._announcement(plan))
        return progress

    def _announcement(self, plan: LanePlan) -> str:
        search, resources, ended = self._plans.search, self._plans.training.resources, self._ledger.count_ended()
        least = f"{resources.min_workers} to " if resources.elastic else ""
        done = f", {ended} of them done before" if ended else ""
        return (
            f"Sweep {self._folder.name}: {search.trials} trials{done}, of at most {search.max_epochs} epochs, "
            f"{plan.lanes} lane(s) of {least}{plan.workers} worker(s) on {'GPU' if plan.gpus_per_worker else 'CPU'}"
        )

    def _supervisor(self, study: optuna.Study, lanes: LanePool, at_most: int, progress: Progress) -> SearchSupervisor:
        search = TuneRun(
            self._plans.search,
            self._folder,
            study,
            self._ledger,
            objectives=self._objectives,
            hub=lanes.hub,
            lanes=at_most,
            has_room=lanes.has_room,
            say=progress.say,
            most_paused=self._retention.most_paused,
            let_go=self._retention.let_go,
        )
        return SearchSupervisor(
            search,
            lanes,
            self._ledger,
            budget=self._budget,
            signals=self._signals,
            say=progress.say,
            polls=(progress.update, DiskWatch(self._folder, self._ledger, progress.say).poll, self._retention.apply),
        )
