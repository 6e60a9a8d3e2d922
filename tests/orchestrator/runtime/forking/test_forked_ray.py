"""Workers of a real instance of Ray that are forked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
import ray
from ray.util.placement_group import placement_group, remove_placement_group

from orchestrator.runtime.forking import fork_server
from orchestrator.runtime.ray_session import ray_session
from tests.orchestrator.runtime.forking.test_fork_server import ROOT, gone, wait_for

MODULES = ["numpy", "torch", "orchestrator.lanes.trial_client"]
pytestmark = [pytest.mark.ray, pytest.mark.slow]


class Worker:
    """Facts about the process of an actor."""

    def parent(self) -> int:
        return os.getppid()

    def threads(self) -> tuple[str, int]:
        torch = sys.modules["torch"]
        return os.environ["OMP_NUM_THREADS"], torch.get_num_threads()

    def group_id(self) -> str:
        group = placement_group([{"CPU": 0.01}])
        remove_placement_group(group)
        return group.id.hex()

    def child(self) -> int:
        return subprocess.Popen(["sleep", "300"]).pid


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    with ray_session(modules=MODULES):
        server = fork_server.begin(MODULES)
        assert server is not None
        yield server.pid


def actor(**options: Any) -> Any:
    return ray.remote(Worker).options(**{"num_cpus": 0, **options}).remote()


def test_workers_are_forked_with_the_threads_that_ray_gives_them(server: int) -> None:
    for cpus in (1, 2):
        worker = actor(num_cpus=cpus)
        assert ray.get(worker.parent.remote()) == server
        assert ray.get(worker.threads.remote()) == (str(cpus), cpus)
        ray.kill(worker)


def test_workers_draw_different_ids(server: int) -> None:
    workers = [actor(), actor()]
    first, second = ray.get([worker.group_id.remote() for worker in workers])
    assert first != second


def test_child_processes_of_a_worker_end_with_it(server: int) -> None:
    worker = actor()
    child = ray.get(worker.child.remote())
    ray.kill(worker)
    wait_for(lambda: gone(child))


def test_a_worker_with_variables_of_its_own_is_not_forked(server: int) -> None:
    worker = actor(runtime_env={"env_vars": {"KMP_BLOCKTIME": "0"}})
    assert ray.get(worker.parent.remote()) != server


def test_workers_start_without_a_server_that_is_gone(server: int) -> None:
    os.kill(server, signal.SIGKILL)
    wait_for(lambda: gone(server))
    assert ray.get(actor().parent.remote()) != server


def test_workers_end_with_their_raylet_and_the_server_with_its_driver() -> None:
    code = """
        import os, sys, ray
        from orchestrator.runtime.forking import fork_server
        from orchestrator.runtime.ray_session import ray_session
        with ray_session(modules=["json"]):
            pid = ray.get(ray.remote(lambda: os.getpid()).remote())
            print(pid, fork_server.begin(["json"]).pid, flush=True)
            sys.stdin.read()
    """
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    driver = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], **pipes)
    worker, server = map(int, driver.stdout.readline().split())
    assert psutil.Process(worker).ppid() == server
    (raylet,) = (child for child in psutil.Process(driver.pid).children() if child.name() == "raylet")
    raylet.kill()
    wait_for(lambda: gone(worker))
    assert not gone(server)
    driver.kill()
    driver.communicate()
    wait_for(lambda: gone(server))
