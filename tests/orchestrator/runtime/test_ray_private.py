"""Contracts of the names that Ray keeps private and `orchestrator.runtime.ray_private` relies on.

A new version of Ray that fails here needs a change in `ray_private` and nowhere else.
"""

from __future__ import annotations

import ast
import inspect
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.train import CheckpointConfig, RunConfig, ScalingConfig
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2._internal.execution import context as train_context
from ray.train.v2._internal.execution.controller.controller import TrainController
from ray.train.v2._internal.execution.scaling_policy import scaling_policy
from ray.train.v2._internal.execution.worker_group import Worker, WorkerGroup
from ray.train.v2._internal.util import ObjectRefWrapper
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError
from ray.tune import Trainable
from ray.tune.schedulers import AsyncHyperBandScheduler, MedianStoppingRule

from orchestrator.lanes.controller.status_reporter import StatusReporter
from orchestrator.runtime.ray_private import core, train_controller, train_driver, train_worker, tune

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = ("cluster", "models", "orchestrator", "search_spaces")
PRIVATE = ROOT / "orchestrator" / "runtime" / "ray_private"
UNDOCUMENTED = ("ray.core.generated", "ray.tune.execution", "ray.tune.impl", "ray.train.v2.api.data_parallel_trainer")


def parameters_of(function: Any) -> list[str]:
    """Return the names of a function's parameters, without the one that Ray adds to methods of actors."""
    return [name for name in inspect.signature(function).parameters if name != "_ray_trace_ctx"]


# Who imports them


def dotted_name(node: ast.AST) -> str:
    """Return an attribute of a name, such as `ray.train.get_context`; empty for one of any other expression."""
    if isinstance(node, ast.Name):
        return node.id
    inner = dotted_name(node.value) if isinstance(node, ast.Attribute) else ""
    return f"{inner}.{node.attr}" if inner else ""  # type: ignore[attr-defined]


def private_names(tree: ast.AST) -> Iterator[str]:
    """Yield the private names of Ray that a module imports, or reaches as attributes of `ray`."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute):
            names = [dotted_name(node)]
        for name in names:
            parts = name.split(".")
            hidden = any(part.startswith("_") and not part.startswith("__") for part in parts)
            if parts[0] == "ray" and (hidden or name.startswith(UNDOCUMENTED)):
                yield name


def test_no_other_file_imports_private_names_of_ray() -> None:
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py") if PRIVATE not in path.parents]
    texts = {path.relative_to(ROOT): path.read_text(encoding="utf-8") for path in files}
    found = {
        f"{path}: {name}" for path, text in texts.items() if "ray" in text for name in private_names(ast.parse(text))
    }
    assert found == set()


@pytest.mark.parametrize(
    "code",
    [
        "from ray._private.state import state",
        "def f():\n    import ray._raylet",
        "import ray\nray._private.worker.global_worker",
        "from ray.train.torch.config import _shutdown_torch",
        "from ray.core.generated import gcs_pb2",
        "from ray.tune.execution.tune_controller import TuneController",
    ],
)
def test_private_names_are_found(code: str) -> None:
    assert list(private_names(ast.parse(code)))


@pytest.mark.parametrize("code", ["import ray.train", "from ray.tune import Callback", "import ray\nray.__version__"])
def test_public_names_are_not(code: str) -> None:
    assert not list(private_names(ast.parse(code)))


# Core


def test_a_process_that_is_not_connected_has_no_node() -> None:
    assert not ray.is_initialized()
    assert core.driver_node() is None
    assert core.dashboard_url() == ""


def test_an_address_is_resolved_and_a_missing_cluster_is_a_connection_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert core.bootstrap_address("10.0.0.7:6379") == "10.0.0.7:6379"
    monkeypatch.setattr("ray._private.services.find_gcs_addresses", set)
    monkeypatch.setattr("ray._private.services.find_bootstrap_address", lambda _: None)
    with pytest.raises(ConnectionError):
        core.bootstrap_address("auto")


def test_authentication_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._raylet import AuthenticationTokenLoader, Config, get_authentication_mode

    assert callable(Config.initialize)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "a" * 64)
    modes = []
    for mode in ("token", "disabled"):
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
        core.reload_authentication()
        modes.append(get_authentication_mode())
        if mode == "token":
            assert AuthenticationTokenLoader.instance().has_token()
    assert modes[0] != modes[1]
    monkeypatch.undo()
    core.reload_authentication()


def test_ray_takes_loopback_for_its_address_while_asked_to() -> None:
    from ray._private import services

    assert "ENABLE_RAY_CLUSTER" in inspect.getsource(services)
    before = core.ray_constants.ENABLE_RAY_CLUSTER
    with core.loopback_only():
        assert services.get_node_ip_address() == "127.0.0.1"
    assert core.ray_constants.ENABLE_RAY_CLUSTER is before


def test_a_private_instance_can_have_a_folder_of_its_own() -> None:
    source = inspect.getsource(ray.init)
    assert '"_temp_dir"' in source


def test_resources_of_an_autoscaler_are_numbers_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for answer, expected in ((None, None), ({"CPU": 16}, {"CPU": 16.0})):
        monkeypatch.setattr(type(core.state), "get_max_resources_from_cluster_config", lambda _, found=answer: found)
        assert core.autoscaled_resources() == expected


def test_placement_groups_come_with_their_creator_and_without_removed_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = vars(core.gcs_pb2)["PlacementGroupTableData"]
    creator, group_id = os.urandom(16), os.urandom(18)
    records = [
        kind(placement_group_id=group_id, creator_actor_id=creator, state=kind.CREATED).SerializeToString(),
        kind(placement_group_id=os.urandom(18), creator_actor_id=creator, state=kind.REMOVED).SerializeToString(),
    ]
    accessor = SimpleNamespace(get_placement_group_table=lambda: records)
    monkeypatch.setattr(type(core.state), "_connect_and_get_accessor", lambda _: accessor)
    ((found, group),) = core.placement_groups_by_creator()
    assert (found, group.id.binary()) == (creator.hex(), group_id)


def test_the_table_of_placement_groups_is_read_from_the_control_service() -> None:
    from ray._private.state import GlobalState
    from ray._raylet import GlobalStateAccessor

    assert callable(GlobalState._connect_and_get_accessor)
    assert callable(GlobalStateAccessor.get_placement_group_table)


def test_a_handle_has_the_id_of_its_actor() -> None:
    assert isinstance(inspect.getattr_static(ray.actor.ActorHandle, "_actor_id"), property)
    assert core.actor_id(SimpleNamespace(_actor_id=ray.ActorID(b"\x07" * 16))) == "07" * 16


def test_a_package_has_a_limit_and_ignore_files_are_obeyed(tmp_path: Path) -> None:
    assert core.package_size_limit() >= 100 * 2**20
    for name in ("kept.py", "left.log", "named.txt"):
        (tmp_path / name).write_text("")
    (tmp_path / ".gitignore").write_text("*.log\n")
    rules = core.ignore_rules(tmp_path, logging.getLogger("ray"))
    assert [any(rule(tmp_path / name) for rule in rules) for name in ("kept.py", "left.log")] == [False, True]
    named = core.excluding(tmp_path, ["named.txt"])
    assert [bool(named(tmp_path / name)) for name in ("kept.py", "named.txt")] == [False, True]


# Train: controller


def test_the_reporter_overrides_what_train_calls() -> None:
    bases = (train_controller.ControllerCallback, train_controller.WorkerGroupCallback)
    names = {
        "after_controller_state_update": ["previous_state", "current_state"],
        "after_worker_group_start": ["worker_group"],
    }
    for name, arguments in names.items():
        (original,) = [vars(base)[name] for base in bases if name in vars(base)]
        assert list(inspect.signature(original).parameters)[1:] == arguments
        assert name in vars(StatusReporter)


def test_a_state_of_the_controller_is_updated_even_when_it_stays_the_same() -> None:
    source = inspect.getsource(TrainController)
    assert "after_controller_state_update" in source
    for name in (
        "Running",
        "Restarting",
        "Rescheduling",
        "ShuttingDown",
        "Errored",
        "Finished",
        "Preempting",
        "Resizing",
    ):
        assert issubclass(
            getattr(train_controller.controller_states, f"{name}State"),
            train_controller.controller_states.TrainControllerState,
        )
    error: Any = RuntimeError("lost")
    assert train_controller.controller_states.RestartingState(error).training_failed_error is error
    assert train_controller.controller_states.ErroredState(error).training_failed_error is error


@pytest.mark.parametrize(("preempted", "expected"), [(True, True), (False, False)])
def test_a_preemption_is_told_from_other_losses(preempted: bool, expected: bool) -> None:
    death = ray.exceptions.ActorDiedError()
    death._preempted = preempted
    assert train_controller.is_preemption_failure(WorkerGroupError("lost", {0: death})) is expected


def test_an_error_of_a_worker_group_has_that_of_each_rank() -> None:
    failures: dict[int, Exception] = {1: RuntimeError("peer")}
    assert WorkerGroupError("lost", failures).worker_failures == failures


def test_train_starts_no_watch_of_its_own_where_it_is_switched_off() -> None:
    from ray.train.v2._internal import constants

    assert "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER" in vars(constants).values()


def test_a_worker_group_runs_functions_on_its_ranks() -> None:
    for name, arguments in {
        "get_workers": [],
        "execute_single": ["rank", "fn"],
        "execute_single_async": ["rank", "fn"],
        "execute_async": ["fn"],
        "__len__": [],
    }.items():
        assert list(inspect.signature(getattr(WorkerGroup, name)).parameters)[1 : 1 + len(arguments)] == arguments
    assert {"actor", "metadata"} <= set(inspect.signature(Worker).parameters)


# Train: driver


def test_the_trainer_leaves_two_helpers_out(tmp_path: Path) -> None:
    trainer = train_driver.BareTrainer(
        lambda: None,
        on_start=lambda _: None,
        scaling_config=ScalingConfig(num_workers=1),
        run_config=RunConfig(name="any", storage_path=str(tmp_path), checkpoint_config=CheckpointConfig()),
    )
    kept = {type(callback) for callback in trainer._create_default_callbacks()}
    all_of_them = {type(callback) for callback in super(type(trainer), trainer)._create_default_callbacks()}
    assert all_of_them - kept == {train_driver.DatasetsCallback, train_driver.PlacementGroupCleanerCallback}
    assert train_driver.autoscaling_requester(trainer) == f"train-{trainer.train_run_context.run_id}"
    assert 'f"train-{train_run_context.run_id}"' in inspect.getsource(scaling_policy)


def test_a_training_function_does_not_stay_in_the_object_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    puts: list[Any] = []
    settings: dict[str, Any] = {}
    controller = SimpleNamespace(run=SimpleNamespace(remote=dict), get_result=SimpleNamespace(remote=lambda: "result"))
    monkeypatch.setattr(ray, "put", lambda value: puts.append(value) or value)
    monkeypatch.setattr(ray, "get", lambda reference: reference)
    actor = SimpleNamespace(remote=lambda *_, **given: settings.update(given) or controller)
    monkeypatch.setattr(ray, "remote", lambda **_: lambda _: actor)
    monkeypatch.setattr(train_driver, "on_this_node", dict)
    trainer = train_driver.BareTrainer(
        lambda: None, on_start=lambda _: None, run_config=RunConfig(name="any", storage_path=str(tmp_path))
    )
    wrapper = ObjectRefWrapper("function")
    assert trainer._initialize_and_run_controller(train_fn_ref=wrapper, callbacks=[]) == "result"
    assert puts == ["function"]
    assert vars(wrapper) == {}
    assert settings["train_fn_ref"].get() == "function"
    assert "train_fn_ref = ObjectRefWrapper(train_fn)" in inspect.getsource(DataParallelTrainer.fit)


def test_a_request_for_resources_can_be_cancelled() -> None:
    from ray.data._internal.cluster_autoscaler import default_autoscaling_coordinator as module

    assert callable(train_driver.get_or_create_autoscaling_coordinator)
    assert parameters_of(module._AutoscalingCoordinatorActor.cancel_request) == ["self", "requester_id"]


def test_a_start_without_resources_is_told_from_other_ends() -> None:
    assert train_driver.is_startup_timeout(ControllerError(WorkerGroupStartupTimeoutError(2)))
    assert not train_driver.is_startup_timeout(ControllerError(RuntimeError("workers fail")))
    assert not train_driver.is_startup_timeout(RuntimeError("no error of Train's"))


def test_a_controller_can_be_aborted() -> None:
    assert parameters_of(TrainController.abort) == ["self"]


# Train: worker


@pytest.mark.parametrize("notice", [None, object()])
def test_a_worker_sees_the_notice_of_a_preemption(notice: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "preemption_context" in inspect.get_annotations(train_context.TrainContext)
    context = SimpleNamespace(preemption_context=SimpleNamespace(preemption_info=notice))
    monkeypatch.setattr(train_context, "_train_context", context)
    assert train_worker.is_node_preempted() is (notice is not None)


def test_the_functions_of_the_torch_backend_are_there() -> None:
    from ray.train.torch import TorchConfig, config

    assert train_worker.training_context() is TorchConfig().train_func_context
    assert list(inspect.signature(config._shutdown_torch).parameters) == ["destroy_process_group"]
    assert not inspect.signature(config._set_torch_distributed_env_vars).parameters
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK"):
        assert f'"{name}"' in inspect.getsource(config._set_torch_distributed_env_vars)


# Tune


def test_schedulers_have_the_attributes_that_ours_fill() -> None:
    assert callable(tune.TuneController.get_live_trials)
    halving = AsyncHyperBandScheduler(time_attr="epoch", metric="m", mode="max", max_t=9, brackets=2)
    assert len(halving._brackets) == 2
    assert halving._trial_info == {}
    median = MedianStoppingRule(time_attr="epoch", metric="m", mode="max")
    median._results["trial"].append({"epoch": 1, "m": 0.5})
    assert (median._metric, median._time_attr) == ("m", "epoch")
    assert list(inspect.signature(median._on_insufficient_samples).parameters) == ["tune_controller", "trial", "time"]


def test_a_trial_actor_has_the_id_of_its_trial() -> None:
    made: Any = object.__new__(Trainable)
    made._trial_info = SimpleNamespace(trial_id="t7")
    assert made.trial_id == "t7"
