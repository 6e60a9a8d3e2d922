"""Ray Tune's part of a sweep: it decides which trial runs and which is stopped, in the thread "tune"."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import optuna
from ray import tune
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from orchestrator.config.plans import SearchPlan
from orchestrator.errors import SpatialSweepError
from orchestrator.lanes.trial_client import client_of_sweep, first_assignment
from orchestrator.lanes.tune_keys import TRIAL, WholeConfig
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.records.ledger import Ledger
from orchestrator.records.objectives import Objectives
from orchestrator.runtime.ray_private.tune import (
    direct_trial_actors,
    without_count_of_callbacks,
    without_experiment_state,
    without_loss_of_node,
)
from orchestrator.search.callback import SweepCallback
from orchestrator.search.not_pickled import NotPickled
from orchestrator.search.pauses import Pauses
from orchestrator.search.schedulers.trial_schedulers import (
    create_allocation,
    create_trial_scheduler,
    keeps_lane,
    trials_at_once,
)
from orchestrator.search.searcher import FINISHED, StudySearcher

_JOIN_TIMEOUT_S = 30.0
# Only the death of a trial's actor is an error to Tune; another takes its place, while the lane trains on.
_MAX_CLIENT_LOSSES = 10
# Each trial actor takes this share of the head node and nothing else: the lanes hold the CPUs and GPUs. It is the
# smallest share that Ray has, so that ten thousand actors fit.
_HEAD_SHARE = {"node:__internal_head__": 0.0001}


class TuneSearcher(NotPickled, Searcher):
    """Searcher of Tune over the configurations of a study; called in the thread "tune".

    Args:
        source: Source of the configurations.
        plan: Search plan of the sweep.
        lease: Called with Tune's id of a trial and its configuration for Tune, which its lane gets before Tune has
            passed it to the trial's actor; does not block.
    """

    def __init__(
        self, source: StudySearcher, plan: SearchPlan, lease: Callable[[str, Mapping[str, Any]], None]
    ) -> None:
        super().__init__(metric=plan.objective.metric, mode=plan.objective.mode)
        self._source = source
        self._lease = lease

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]  # a text ends the search
        """See `StudySearcher.suggest`."""
        found = self._source.suggest(trial_id)
        if not isinstance(found, dict):
            return Searcher.FINISHED if found == FINISHED else found
        self._lease(trial_id, found)
        return {**found, TRIAL: WholeConfig(found[TRIAL])}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """See `StudySearcher.release`."""
        self._source.release(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the study's database holds the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **_: Any) -> bool:
        """Accept an empty space from Tune only: the study has its own."""
        return not config


class _ExternalStopper(NotPickled, Stopper):
    """Stopper that ends a Tune experiment on request of another thread, and trials that the user stops or pauses.

    Args:
        steered: Returns whether the user stops or pauses a trial, given Tune's id.
    """

    def __init__(self, steered: Callable[[str], str]) -> None:
        self.ending = False
        self._steered = steered

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return bool(self._steered(trial_id))

    def stop_all(self) -> bool:
        return self.ending


class TuneRun:
    """Tune experiment of one session; its methods are called in the driver's main thread.

    Args:
        plan: Search plan of the sweep.
        folder: Folder of the sweep; Tune writes into its scratch space.
        study: Study of the sweep.
        ledger: Ledger of the sweep.
        objectives: Objectives and constraints of the sweep.
        hub: Handle of the lane hub.
        lanes: Largest number of trials at the same time.
        has_room: Returns whether another trial would find a lane, given the number of trials that have one.
        say: Called with the state of a long search for a configuration.
        most_paused: Number of paused trials that keep their checkpoints.
        let_go: Removes the checkpoints of a paused trial.
    """

    def __init__(
        self,
        plan: SearchPlan,
        folder: SweepFolder,
        study: optuna.Study,
        ledger: Ledger,
        *,
        objectives: Objectives,
        hub: Any,
        lanes: int,
        has_room: Callable[[int], bool],
        say: Callable[[str], None],
        most_paused: int,
        let_go: Callable[[int], None],
    ) -> None:
        self._plan = plan
        self._folder = folder
        self._ledger = ledger
        self._hub = hub
        self._lanes = lanes
        room = has_room if keeps_lane(plan) else lambda _: True
        self._allocation = create_allocation(plan, ledger)
        pauses = Pauses(study, ledger, objectives, self._allocation, most=most_paused, let_go=let_go)
        self._searcher = StudySearcher(study, plan, ledger, room, say=say, allocation=self._allocation, pauses=pauses)
        self._stopper = _ExternalStopper(self._searcher.steered)
        self._callback = SweepCallback(
            self._searcher,
            study,
            objectives,
            ledger,
            hub,
            acknowledges=keeps_lane(plan),
            allocation=self._allocation,
            pauses=pauses,
        )
        self._thread = threading.Thread(target=self._run, name="tune", daemon=True)
        self.failure: Exception | None = None

    @property
    def running(self) -> bool:
        """True while trials are left to run."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Start the thread "tune"; does not block."""
        self._thread.start()

    def wait(self, timeout_s: float) -> None:
        """Block until the experiment has ended, `timeout_s` seconds at most."""
        self._thread.join(timeout_s)

    @property
    def is_closing(self) -> bool:
        """True once no more trials are proposed."""
        return self._searcher.closed

    @property
    def begun(self) -> int:
        """Number of trials that have ended for good or that train."""
        return self._searcher.begun

    @property
    def sampler(self) -> str:
        """Name of the sampler that proposes, which `auto` may have chosen."""
        return self._searcher.sampler

    @property
    def spent_epochs(self) -> str:
        """Text that the trial scheduler has spent the epochs it allows itself before all trials began; else empty."""
        return "" if self._allocation is None else self._allocation.spent

    @property
    def disk_full(self) -> str:
        """Text on the storage that has had no room for a checkpoint for minutes; empty where it has."""
        return self._callback.disk_full

    def change_plan(self, plan: SearchPlan) -> None:
        """Propose trials by another plan from now on; does not block training.

        Args:
            plan: Search plan; it may differ in the number of trials and in bounds and choices of its space.
        """
        self._plan = plan
        self._searcher.change_plan(plan, self._ledger.searched)

    def enqueue(self, source: str, settings: Mapping[str, Any], request: str) -> Mapping[str, Any]:
        """Enqueue a configuration given by hand, and record it; see `StudySearcher.enqueue`."""
        return self._searcher.enqueue(source, settings, request)

    def stop_trial(self, number: int) -> bool:
        """End a trial that the ledger has recorded as stopped: at once, or at its next report where it trains.

        Args:
            number: Number of the trial.

        Returns:
            Whether it has ended already.
        """
        return self._callback.stop(number)

    def hold_trial(self, number: int) -> None:
        """Pause a trial that the ledger has recorded as paused by the user, at its next report."""
        self._searcher.hold(number)

    def resume_trial(self, number: int) -> None:
        """Resume a paused trial as soon as a lane is free."""
        self._searcher.resume_next(number)

    def wind_down(self) -> None:
        """Propose no more trials; the experiment ends when the running ones have ended."""
        self._searcher.closed = True

    def end(self, reason: str) -> None:
        """Stop what still runs; has no effect where nothing does.

        Args:
            reason: Reason of the interruption, for the journal.
        """
        self._searcher.closed = True
        self._stopper.ending = True
        self._callback.end_running(reason)

    def join(self) -> None:
        """Block until Tune has removed its actors, half a minute at most, and end the open trials."""
        self._thread.join(_JOIN_TIMEOUT_S)
        self._callback.end_running("the sweep was ended")

    def _run(self) -> None:
        try:
            with (
                direct_trial_actors(),
                without_count_of_callbacks(),
                without_experiment_state(),
                without_loss_of_node(),
            ):
                self._tuner().fit()
        except Exception as error:  # handed to the main thread, which raises it
            self.failure = _cause_of_ours(error)

    def _lease_early(self, tune_id: str, config: Mapping[str, Any]) -> None:
        """Lease a lane to a trial, which its actor will ask for as well, once Tune has configured it.

        Where trials exchange weights, the actor has to look for those of another trial first.
        """
        if keeps_lane(self._plan):
            self._hub.lease.remote(first_assignment(tune_id, config, self._folder.trials))

    def _tuner(self) -> tune.Tuner:
        trainable = client_of_sweep(self._hub, self._folder.trials, self._plan.objective.metric)
        placement = tune.PlacementGroupFactory([_HEAD_SHARE])
        return tune.Tuner(
            tune.with_resources(trainable, placement),
            tune_config=tune.TuneConfig(
                metric=self._plan.objective.metric,
                mode=self._plan.objective.mode,
                search_alg=TuneSearcher(self._searcher, self._plan, self._lease_early),
                scheduler=create_trial_scheduler(self._plan, self._ledger, self._folder, self._allocation),
                # A trial that resumes is a new one to Tune, and more may be wanted: the searcher ends the experiment.
                num_samples=-1,
                max_concurrent_trials=trials_at_once(self._plan, self._lanes),
                reuse_actors=True,
                trial_name_creator=lambda trial: f"trial_{trial.trial_id}",
                trial_dirname_creator=lambda trial: f"trial_{trial.trial_id}",
            ),
            run_config=tune.RunConfig(
                name=f"tune-{self._ledger.sessions}",  # Tune would restore the state of a name it has seen
                storage_path=str(self._folder.scratch),
                stop=self._stopper,
                callbacks=[self._callback],
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
                failure_config=tune.FailureConfig(max_failures=_MAX_CLIENT_LOSSES),
                verbose=0,
            ),
        )


def _cause_of_ours(error: Exception) -> Exception:
    """Return the error that a callback or the searcher raised with a message for the user, out of Tune's wrappers."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, SpatialSweepError):
            return inner.with_traceback(None)
        inner = inner.__cause__ or inner.__context__
    return error
