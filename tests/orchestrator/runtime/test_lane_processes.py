"""Contracts of Ray's private names with which a lane and its trial actors start fewer processes."""

from __future__ import annotations

import importlib
import inspect
import os
import time
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.core.generated.common_pb2 import ActorDiedErrorContext
from ray.exceptions import ActorDiedError
from ray.train.constants import RAY_CHDIR_TO_TRIAL_DIR
from ray.train.v2._internal.callbacks import preemption_callback
from ray.train.v2._internal.execution import preemption
from ray.train.v2._internal.execution.controller.controller import TrainController
from ray.train.v2._internal.execution.worker_group import WorkerGroup
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.tune import Trainable

from orchestrator.lanes.controller.preemption_watch import PreemptionWatch
from orchestrator.lanes.trial_client import TrialClient
from orchestrator.runtime.ray_private import lane_controller, tune

tune_module = importlib.import_module("ray.tune.tune")  # whose package has a function of this name


def test_a_worker_group_starts_without_an_actor_for_collective_calls() -> None:
    group, state = lane_controller.worker_group_module, lane_controller.worker_group_state
    for module, name in ((group, "SynchronizationActor"), (state, "_shutdown_sync_actor")):
        assert name in vars(module)
        assert f"{name}(" in inspect.getsource(module) or f"{name}.options(" in inspect.getsource(module)
    for name, arguments in {
        "_init_train_context": ["workers", "sync_actor"],
        **({"set_required_barrier_ranks": ["ranks"]} if hasattr(WorkerGroup, "set_required_barrier_ranks") else {}),
    }.items():
        for owner in (WorkerGroup, lane_controller.LaneWorkerGroup):
            assert list(inspect.signature(getattr(owner, name)).parameters)[1:] == arguments
    assert TrainController.worker_group_cls is WorkerGroup
    assert lane_controller.LaneController.worker_group_cls is lane_controller.LaneWorkerGroup


def test_variables_reach_a_lane_without_a_runtime_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lane_controller.LaneWorkerGroup._get_worker_runtime_env({}) == {}
    assert set(WorkerGroup._get_worker_runtime_env({})) == {"env_vars"}
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "7")
    expected = {"RAY_WARN_BLOCKING_GET_INSIDE_ASYNC": "0", "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "7"}
    assert lane_controller.environment_of_lane().items() >= expected.items()
    source = inspect.getsource(DataParallelTrainer._initialize_and_run_controller)
    assert "get_env_vars_to_propagate" in source
    assert "RAY_NODE_ID_KEY" in source


def test_the_watch_for_preemptions_marks_the_workers_of_a_drained_node(monkeypatch: pytest.MonkeyPatch) -> None:
    marked: list[tuple[int, list[int]]] = []
    monkeypatch.setattr(preemption, "_get_draining_nodes", lambda: {"there": 9, "elsewhere": 1})
    monkeypatch.setattr(ray, "nodes", list)

    def worker(rank: int, node: str) -> Any:
        mark = SimpleNamespace(remote=lambda info: marked.append((rank, info.preempted_ranks)))
        context, metadata = SimpleNamespace(world_rank=rank), SimpleNamespace(node_id=node)
        return SimpleNamespace(distributed_context=context, metadata=metadata, actor=SimpleNamespace(mark_preempt=mark))

    group = SimpleNamespace(get_workers=lambda: [worker(0, "here"), worker(1, "there")])
    callback = PreemptionWatch()
    callback.after_worker_group_start(group)
    thread = callback._watcher._monitor_thread
    deadline = time.monotonic() + 120
    while len(marked) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert marked == [(0, [1]), (1, [1])]
    callback.before_worker_group_shutdown(group)  # type: ignore[arg-type]
    thread.join(120)
    assert not thread.is_alive()
    for name in ("before_worker_group_shutdown", "after_worker_group_abort"):
        assert "self._stop_watcher()" in inspect.getsource(vars(preemption_callback.PreemptionCallback)[name])


def test_trial_actors_start_without_a_runtime_environment() -> None:
    class Trained:
        pass

    theirs = tune.tune_controller._ActorClassCache
    with tune.direct_trial_actors():
        cache = tune.tune_controller._ActorClassCache()
    assert tune.tune_controller._ActorClassCache is theirs
    assert cache.get(Trained) is cache.get(Trained)
    assert not cache.get(Trained)._default_options.get("runtime_env")
    assert theirs().get(Trained)._default_options["runtime_env"]
    assert "self._class_cache = _ActorClassCache()" in inspect.getsource(tune.TuneController)


def test_tune_saves_the_state_of_its_experiment_at_its_end_alone_and_without_trials(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    saved: list[bool] = []
    monkeypatch.setattr(tune.TuneController, "checkpoint", lambda _, force, wait: saved.append(force))
    theirs = tune_module.TuneController
    with tune.without_experiment_state():
        controller = object.__new__(tune_module.TuneController)
    assert tune_module.TuneController is theirs
    controller.checkpoint()
    controller.checkpoint(force=True, wait=True)
    assert saved == [True]
    assert controller._get_trial_checkpoints() == {}
    assert "runner = TuneController(**runner_kwargs)" in inspect.getsource(tune_module.run)
    assert "self._get_trial_checkpoints().values()" in inspect.getsource(tune.TuneController.save_to_dir)


def test_tune_logs_no_traceback_about_the_node_of_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    own, other = (
        ActorDiedError(ActorDiedErrorContext(error_message=f"The actor is dead because {reason}.", actor_id=bytes(16)))
        for reason in ("its owner has died. Owner Id: 01", "its worker process has died")
    )
    log, said = tune.tune_controller.logger, []
    monkeypatch.setattr(log, "callHandlers", lambda record: said.append(record.getMessage()))
    with tune.without_loss_of_node():
        log.error("trial 0", exc_info=own)
        log.error("trial 1", exc_info=other)
    log.error("trial 2", exc_info=own)
    assert said == ["trial 1", "trial 2"]
    assert 'logger.error(f"Trial task failed for trial {trial}", exc_info=exception)' in inspect.getsource(
        tune.TuneController._trial_task_failure
    )


def test_a_trial_actor_stays_in_the_folder_of_its_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RAY_CHDIR_TO_TRIAL_DIR, "1")
    monkeypatch.setattr(Trainable, "__init__", lambda *_, **__: None)
    TrialClient()
    assert os.environ[RAY_CHDIR_TO_TRIAL_DIR] == "0"
