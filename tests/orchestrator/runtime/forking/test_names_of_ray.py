"""Contracts of Ray's private names that start a private instance and turn a forked process into a worker."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray._private import node, parameter, services, utils, worker

from orchestrator.runtime.forking import fork_server
from orchestrator.runtime.ray_private import forked_process, instance


def test_workers_can_be_started_through_another_script(tmp_path: Path) -> None:
    theirs = parameter.RayParams
    assert instance.WORKER_SCRIPT.is_file()
    with instance.started_by(tmp_path / "script.py"):
        settings = parameter.RayParams(num_cpus=1)
    assert settings.worker_path == str(tmp_path / "script.py")
    assert parameter.RayParams is theirs
    assert "ray._private.parameter.RayParams(" in inspect.getsource(worker.init)
    assert "worker_path" in inspect.signature(services.start_raylet).parameters
    assert "self._ray_params.worker_path" in inspect.getsource(node.Node.start_raylet)


@pytest.mark.parametrize("logs", [False, True])
def test_an_instance_can_do_without_processes_for_clusters(logs: bool) -> None:
    theirs = node.Node
    with instance.without_helpers(logs=logs):
        settings, changed = parameter.RayParams(), node.Node
    assert (settings.no_monitor, settings.include_log_monitor) == (True, logs)
    assert node.Node is theirs
    assert issubclass(changed, theirs)
    stand_in = SimpleNamespace()
    changed.start_api_server(stand_in, include_dashboard=False, raise_on_failure=False)
    assert stand_in._webui_url == ""
    assert "ray._private.node.Node(" in inspect.getsource(worker.init)
    source = inspect.getsource(theirs)
    for used in ("self._ray_params.no_monitor", "self._ray_params.include_log_monitor", "self.start_api_server("):
        assert used in source


def test_classes_of_actors_leave_the_generator_of_ids_alone() -> None:
    assert inspect.getsource(ray.actor).count("ActorClassID.from_random()") == 1
    theirs = vars(ray.actor)["ActorClassID"]
    with forked_process.unseeded_ids():
        ours = vars(ray.actor)["ActorClassID"].from_random()
        other = vars(ray.actor)["ActorClassID"].from_random()
    assert vars(ray.actor)["ActorClassID"] is theirs
    assert isinstance(ours, theirs)
    assert ours != other
    assert len(forked_process.fresh_id()) == 28


def test_torch_follows_the_threads_that_ray_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    set_to: list[int] = []

    def set_threads() -> bool:
        os.environ["OMP_NUM_THREADS"] = "3"
        return True

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(utils, "set_omp_num_threads_if_unset", set_threads)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(set_num_threads=set_to.append))
    forked_process.follow_thread_limits()
    changed: Any = utils.set_omp_num_threads_if_unset
    assert changed() is True
    assert set_to == [3]


@pytest.mark.parametrize("handles", [True, False])
def test_the_end_of_a_process_is_awaited(handles: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not handles:  # as with a Python that was built for Linux before 5.3
        monkeypatch.delattr(os, "pidfd_open")
    monkeypatch.setattr(forked_process, "_POLL_S", 0.02)
    process = subprocess.Popen(["sleep", "60"])
    waiting = threading.Thread(target=forked_process._end_of(process.pid), daemon=True)
    waiting.start()
    waiting.join(0.1)
    assert waiting.is_alive()
    process.kill()
    waiting.join(30)
    assert not waiting.is_alive()
    process.wait()


def test_workers_are_forked_with_a_tested_version_of_ray_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fork_server, "version", lambda _: "2.61.0")
    assert fork_server.begin(["json"]) is None
