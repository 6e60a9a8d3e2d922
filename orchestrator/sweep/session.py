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
from dataclasses import replace

import optuna
import ray
from rich.console import Console

from orchestrator.config import SweepConfig
from orchestrator.config.plans import SearchPlan, SweepPlans
from orchestrator.config.sections.budget import BudgetConfig
from orchestrator.config.sections.training import AUTO
from orchestrator.config.tasks.networks import facts_of_images
from orchestrator.config.trial import resolve_trial
from orchestrator.lanes.lane_modules import LANE_MODULES
from orchestrator.lanes.lane_setting import LaneInputs
from orchestrator.lanes.pool.lane_pool import LanePool
from orchestrator.notify.notifications import Notifications
from orchestrator.plain_output import say
from orchestrator.progress.notebook_view import NotebookDisplay
from orchestrator.progress.progress_records import ProgressRecords
from orchestrator.progress.progress_view import Progress
from orchestrator.progress.snapshot import Snapshots
from orchestrator.records.budget import Budget
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.records.ledger import Ledger, TrialStatus
from orchestrator.records.objectives import Objectives
from orchestrator.runtime.gpu_share import measured_share
from orchestrator.runtime.lane_plan import LanePlan, plan_lanes
from orchestrator.runtime.ray_session import ray_session
from orchestrator.search.proposals.trial_filter import TrialFilter
from orchestrator.search.racing import race_state
from orchestrator.search.schedulers.trial_schedulers import create_allocation
from orchestrator.search.study import close_study
from orchestrator.search.tune_run import TuneRun
from orchestrator.sweep.checkpoint_retention import CheckpointRetention
from orchestrator.sweep.disk_watch import DiskWatch
from orchestrator.sweep.dry_run_trials import largest_trial
from orchestrator.sweep.search_supervisor import SearchSupervisor
from orchestrator.sweep.signals import SignalWatch
from orchestrator.sweep.steering.steering import Steering
from orchestrator.sweep.study_setup import set_up_study


class SweepSession:
    """Training of the trials that are left of a sweep; runs in the driver's main thread and blocks until its end.

    Args:
        config: Configuration of the sweep.
        plans: Plans of the sweep.
        folder: Folder of the sweep, locked by this process.
        ledger: Ledger of the sweep, with the events of earlier sessions.
        dataset: Dataset as `locate_dataset` returns it.
        console: Console for progress and messages.
        signals: Requests to stop.
        display: Output of a notebook, where progress is shown in place of the console.
        notifications: Notifications of the session.
    """

    def __init__(
        self,
        config: SweepConfig,
        plans: SweepPlans,
        folder: SweepFolder,
        ledger: Ledger,
        *,
        dataset: str,
        console: Console,
        signals: SignalWatch,
        display: NotebookDisplay | None = None,
        notifications: Notifications,
    ) -> None:
        self._config = config
        self._plans = plans
        self._folder = folder
        self._ledger = ledger
        self._dataset = dataset
        self._console = console
        self._signals = signals
        self._display = display
        self._notifications = notifications
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
        left = max(1, self._plans.search.trials * self._plans.search.seeds - self._ledger.count_ended())
        with ray_session(address, verbose=verbose, modules=LANE_MODULES):  # 1. Connect to Ray and plan the lanes
            resources = self._plans.training.resources
            share = measured_gpu_share(self._plans, left) if resources.gpus_per_worker == AUTO else 1.0
            self._lane_plan = plan_lanes(resources, left, gpu_share=share)
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
            with self._open_progress(lane_plan, lanes) as progress:
                search = self._search(study, lanes, lane_plan.at_most, progress)
                steering = self._steering(search, progress)
                supervisor = self._supervisor(search, lanes, progress, steering)
                with contextlib.ExitStack() as closing:  # from the last to the first, whichever of them fails
                    closing.callback(close_study, study)
                    closing.callback(steering.close)
                    closing.callback(supervisor.close)  # 5. End the search and close the lanes
                    supervisor.run()  # 4. Search
                if not self._ledger.ended_by and self._ledger.count_ended_configurations() < self._plans.search.trials:
                    self._note_spent_epochs(search)
                progress.update()
                self._retention.apply()  # 6.
                is_over = self._search_is_over() or self._completion()
                if not (supervisor.ray_is_gone and is_over):  # what ends everything may end Ray first
                    supervisor.raise_failure()
                return TrialStatus.INTERRUPTED if self._signals.stop_requested else TrialStatus.FINISHED

    def _completion(self) -> str:
        """Return why no trial is left to train; empty where some are."""
        if all_done := self._all_done():
            return all_done
        return self._budget.exhausted_limit(self._ledger.totals()) or ""

    def _all_done(self) -> str:
        """Return that the search is over, as text; empty where it is not, or trials are left that the user paused."""
        return "" if self._ledger.held() else self._search_is_over()

    def _search_is_over(self) -> str:
        """Return that the trials are used up and the race of seeds is over, as text; empty where they are not."""
        configurations = self._all_configurations_done()
        if configurations and self._plans.search.seeds > 1:
            return configurations if race_state(self._plans.search, self._ledger.trials()).is_over else ""
        return configurations

    def _all_configurations_done(self) -> str:
        """Return that every configuration has ended or paused for good, as text; empty where one has not."""
        trials = self._plans.search.trials
        if self._ledger.count_ended_configurations() >= trials:
            return f"all {trials} trials are done"
        paused = self._ledger.count_paused()
        if not paused or self._ledger.open() or self._ledger.count_configurations() < trials:
            return ""
        allocation = create_allocation(self._plans.search, self._ledger)
        if allocation is None or not allocation.is_finished or self._spent_epochs():
            return ""
        return f"all {trials} trials are done, {paused} of them paused"

    def _spent_epochs(self) -> str:
        """Return that `budget.epochs` is spent, as text; empty where it is not."""
        epochs = BudgetConfig(epochs=self._plans.budget.epochs)
        return Budget(epochs, self._plans.search.objective).exhausted_limit(self._ledger.totals()) or ""

    def _note_spent_epochs(self, search: TuneRun) -> None:
        """Record that `budget.epochs`, or what the allocation rule allows itself, is spent: it ends the search."""
        if reason := self._spent_epochs() or search.spent_epochs:
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
            LaneInputs(
                training.dataset,
                self._dataset,
                training.objective,
                training.costs,
                network_files=training.network_files,
                task=training.task,
            ),
            scratch=self._folder.scratch / "ray",
        )

    def _open_progress(self, plan: LanePlan, lanes: LanePool) -> Progress:
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
            progress=lambda: lanes.progress,
        )
        progress = Progress(snapshots, self._console, self._display)
        progress.say(self._announcement(plan))
        if self._display is not None and (elsewhere := self._display.offer_buttons(self._folder)):
            progress.say(elsewhere)
        return progress

    def _announcement(self, plan: LanePlan) -> str:
        search, resources, ended = self._plans.search, self._plans.training.resources, self._ledger.count_ended()
        least = f"{resources.min_workers} to " if resources.elastic else ""
        done = f", {ended} of them done before" if ended else ""
        device = "GPU" if plan.gpus_per_worker else "CPU"
        if 0 < plan.gpus_per_worker < 1:
            device = f"{plan.gpus_per_worker:g} of a GPU"
        return (
            f"Sweep {self._folder.name}: {search.trials} trials{done}, of at most {search.max_epochs} epochs, "
            f"{plan.lanes} lane(s) of {least}{plan.workers} worker(s) on {device}"
        )

    def _search(self, study: optuna.Study, lanes: LanePool, at_most: int, progress: Progress) -> TuneRun:
        return TuneRun(
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

    def _steering(self, search: TuneRun, progress: Progress) -> Steering:
        """Return what carries out the user's requests to this session."""

        def take(plan: SearchPlan) -> None:
            self._plans = replace(self._plans, search=plan, budget=self._budget.limits)
            progress.change_trials(plan.trials)

        return Steering(
            self._config,
            self._plans.search,
            self._folder,
            self._ledger,
            search,
            budget=self._budget,
            signals=self._signals,
            changed=take,
            say=progress.say,
        )

    def _supervisor(self, search: TuneRun, lanes: LanePool, progress: Progress, steering: Steering) -> SearchSupervisor:
        records = ProgressRecords(self._ledger, self._folder.scratch, lambda: lanes.progress)
        disk = DiskWatch(self._folder, self._ledger, progress.say)
        return SearchSupervisor(
            search,
            lanes,
            self._ledger,
            budget=self._budget,
            signals=self._signals,
            say=progress.say,
            polls=(
                lambda: self._ledger.lanes_held(lanes.held.asked_s, lanes.held.lanes),
                progress.update,
                disk.poll,
                records.poll,
                steering.poll,
                self._retention.apply,
                self._notifications.poll,
            ),
        )


def measured_gpu_share(plans: SweepPlans, trials: int) -> float:
    """Return the share of a GPU that `gpus_per_worker: auto` stands for in the connected cluster; 1 without GPUs.

    Args:
        plans: Plans of the sweep.
        trials: Number of trials that are left.

    Raises:
        ClusterError: No GPU became free, or the measurement failed.
    """
    search, resources = plans.search, plans.training.resources
    if not ray.cluster_resources().get("GPU", 0.0):
        return 1.0
    facts = facts_of_images(search.dataset, search.task)
    largest = largest_trial(search, TrialFilter(search, facts), facts, (), resources.max_workers)
    trial = resolve_trial(search, 0, largest.values, search.initial_weights)
    return measured_share(trial, facts, plans.training.network_files, min(resources.lanes or trials, trials))
