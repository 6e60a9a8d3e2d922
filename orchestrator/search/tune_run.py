"""Ray Tune's part of a sweep: decides which trial runs and which is stopped, in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import optuna
from ray import tune
from ray.tune.stopper import Stopper

from orchestrator.config.plans import SearchPlan
from orchestrator.errors import SpatialSweepError
from orchestrator.lanes.trial_client import TrialClient
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.records.ledger import Ledger
from orchestrator.records.objectives import Objectives
from orchestrator.search.callback import SweepCallback
from orchestrator.search.not_pickled import NotPickled
from orchestrator.search.schedulers.trial_schedulers import create_trial_scheduler, takes_lanes, trials_at_once
from orchestrator.search.searcher import StudySearcher

_JOIN_TIMEOUT_S = 30.0
# Only the death of a trial's actor is an error to Tune; another takes its place, while the lane trains on.
_MAX_CLIENT_LOSSES = 10
# Each trial actor takes this share of the head node and nothing else: the lanes hold the CPUs and GPUs. It is the
# smallest that Ray knows, so that ten thousand find room.
_HEAD_SHARE = {"node:__internal_head__": 0.0001}


class _StopWhen(NotPickled, Stopper):
    """Ends a Tune experiment from outside."""

    def __init__(self) -> None:
        self.ending = False

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.ending


class TuneRun:
    """One Tune experiment over trial clients: that of one session of the sweep.

    Args:
        plan: Search plan of the sweep.
        folder: Of the sweep; Tune writes into its scratch space.
        study: Of the sweep.
        ledger: Told of every trial.
        objectives: Objectives and constraints of the sweep.
        hub: Handle of the lane hub.
        lanes: Trials at the same time, at most.
        has_room: Whether a trial would find a lane beside so many that have one.
        say: Told how a long search for a configuration stands.
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
    ) -> None:
        self._plan = plan
        self._folder = folder
        self._ledger = ledger
        self._hub = hub
        self._lanes = lanes
        self._stopper = _StopWhen()
        room = has_room if takes_lanes(plan) else lambda _: True
        self._searcher = StudySearcher(study, plan, ledger, room, say=say)
        self._callback = SweepCallback(self._searcher, study, objectives, ledger, hub)
        self._thread = threading.Thread(target=self._run, name="tune", daemon=True)
        self.failure: Exception | None = None

    @property
    def running(self) -> bool:
        """Whether trials are left to run."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Starts the experiment."""
        self._thread.start()

    def wait(self, timeout_s: float) -> None:
        """Waits for the end, at most so long."""
        self._thread.join(timeout_s)

    def wind_down(self) -> None:
        """Proposes no more trials; Tune ends when the running ones have."""
        self._searcher.closed = True

    def end(self, reason: str) -> None:
        """Stops what still runs; harmless when nothing does."""
        self._searcher.closed = True
        self._stopper.ending = True
        self._callback.end_running(reason)

    def join(self) -> None:
        """Waits for Tune to take its actors down, and closes the books."""
        self._thread.join(_JOIN_TIMEOUT_S)
        self._callback.end_running("the sweep was ended")

    def _run(self) -> None:
        try:
            self._tuner().fit()
        except Exception as error:  # handed to the main thread, which raises it
            self.failure = _cause_of_ours(error)

    def _tuner(self) -> tune.Tuner:
        trainable = tune.with_parameters(
            TrialClient, hub=self._hub, trials_folder=str(self._folder.trials), metric=self._plan.objective.metric
        )
        placement = tune.PlacementGroupFactory([_HEAD_SHARE])
        return tune.Tuner(
            tune.with_resources(trainable, placement),
            tune_config=tune.TuneConfig(
                metric=self._plan.objective.metric,
                mode=self._plan.objective.mode,
                search_alg=self._searcher,
                scheduler=create_trial_scheduler(self._plan, self._ledger, self._folder),
                num_samples=self._plan.trials - self._ledger.count_ended(),
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
    """What a callback or the searcher raised with a message for the user; Tune shows its traceback instead."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, SpatialSweepError):
            return inner.with_traceback(None)
        inner = inner.__cause__ or inner.__context__
    return error
