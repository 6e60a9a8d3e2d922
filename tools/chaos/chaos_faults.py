"""The faults of `tools/chaos/chaos.py`: each does its harm, and what the world then does to mend it.

A fault strikes a cluster on which a sweep runs. The world mends what an operator's cluster mends by itself: hosts boot,
services of hosts and servers are started again, jobs are submitted again. It never touches the sweep.
"""

from __future__ import annotations

import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil
from disturbed_sweep import ROOT, until
from hosted_sweep import HostedSweep

sys.path.insert(0, str(ROOT))

from tests.support.hosts import Host
from tests.support.ray_hosts import RayHosts

LONGEST_ABSENCE_S = 10.0
GRACE_S = 10.0


@dataclass
class World:
    """What a fault may touch.

    Args:
        cluster: Its hosts and servers.
        sweep: That runs there.
        draw: Decides what is hit, and for how long.
        struck_s: When something was hit last, by the clock.
    """

    cluster: RayHosts
    sweep: HostedSweep
    draw: random.Random
    struck_s: float = 0.0

    def pause(self, seconds: float | None = None) -> None:
        """Time passes, at random unless told; services that have ended are started again meanwhile."""
        over = time.monotonic() + (self.draw.uniform(1.0, LONGEST_ABSENCE_S) if seconds is None else seconds)
        while time.monotonic() < over:
            self.cluster.restart_ended()
            time.sleep(0.1)

    def strikes(self, fault: Fault) -> bool:
        """Does its harm, now or when it has found what to hit; whether there was anything."""
        self.struck_s = time.time()
        return fault(self)

    def kill(self, victims: list[psutil.Process]) -> bool:
        """SIGKILL hits one of them; whether there was one."""
        if not victims:
            return False
        try:
            self.struck_s = time.time()
            self.draw.choice(victims).kill()
        except psutil.NoSuchProcess:
            return False
        return True

    def any_worker(self) -> Host:
        """A host that trains."""
        return self.draw.choice([host for host in self.cluster.workers if host.is_up])


Fault = Callable[[World], bool]
"""Whether it has struck: there must be something to hit."""


def kill_worker(world: World) -> bool:
    """SIGKILL hits a rank."""
    ranks = [found for host in world.cluster.workers for found in _called(host, "ray::RayTrainWorker")]
    return world.kill(ranks)


def kill_controller(world: World) -> bool:
    """SIGKILL hits Ray Train's controller of a lane."""
    return world.kill(_called(world.cluster.head, "ray::TrainController"))


def kill_raylet(world: World) -> bool:
    """SIGKILL hits the raylet of a host; the service that it belonged to is started again."""
    host = world.any_worker()
    struck = world.kill(_called(host, "raylet/raylet"))
    world.pause()
    return struck


def lose_host(world: World) -> bool:
    """A host loses its power, and boots."""
    host = world.any_worker()
    _off_and_on(host, world)
    return True


def preempt(world: World) -> bool:
    """A host is asked to end, has some seconds, loses its power, and boots."""
    host = world.any_worker()
    _end_in_peace(host)
    _off_and_on(host, world)
    return True


def _end_in_peace(host: Host) -> None:
    for process in _called(host, "ray start"):
        process.send_signal(signal.SIGTERM)
    until(lambda: not _called(host, "raylet/raylet"), patience_s=GRACE_S)


def _off_and_on(host: Host, world: World) -> None:
    host.kill()
    world.pause()
    host.boot()
    world.cluster.start_worker(host)


def cut_link(seconds: float) -> Fault:
    """A host's cable is pulled out, and put back."""

    def cut(world: World) -> bool:
        host = world.any_worker()
        host.link(up=False)
        world.pause(seconds)
        host.link(up=True)
        return True

    return cut


def kill_driver(world: World) -> bool:
    """SIGKILL hits the driver; the sweep is submitted again, to be resumed."""
    struck = world.kill(drivers(world.cluster))
    if struck:
        world.sweep.driver.wait(60)
        world.sweep.submit(resume=True)
    return struck


def lose_head(world: World) -> bool:
    """SIGKILL hits Ray's control service, and all of Ray on the head ends; it starts again, and takes the job again."""
    cluster = world.cluster
    struck = world.kill(_called(cluster.head, "gcs/gcs_server"))
    if struck:
        cluster.rays["head"].wait(60)
        until(lambda: not [*drivers(cluster), *_called(cluster.head, "raylet/raylet")], patience_s=60.0)
        world.pause()
        cluster.start_head()
        world.sweep.driver.wait(120)
        cluster.wait_until_it_takes_jobs()
        world.sweep.submit(resume=True)
    return struck


def stop_mlflow(world: World) -> bool:
    """The MLflow server is gone without a word, and comes back."""
    world.cluster.kill_mlflow()
    world.pause()
    world.cluster.start_mlflow()
    return True


def stop_postgresql(world: World) -> bool:
    """The database is stopped as by a power cut, under the study and under MLflow, and comes back."""
    world.cluster.database.stop()
    world.pause()
    world.cluster.database.start()
    return True


def fill_disk(world: World) -> bool:
    """The disk of a host has no room left, and some again."""
    host = world.any_worker()
    host.tried(["dd", "if=/dev/zero", "of=/tmp/filler", "bs=1M"])
    world.pause()
    (host.tmp / "filler").unlink()
    return True


def fill_storage(world: World) -> bool:
    """The storage that all hosts share has no room left, and some again."""
    world.cluster.head.tried(["dd", "if=/dev/zero", f"of={world.cluster.shared}/filler", "bs=64k"])
    world.pause()
    (world.cluster.shared / "filler").unlink()
    return True


def leave(cluster: RayHosts) -> None:
    """A host is switched off before a sweep begins, and Ray knows; `join` brings it back."""
    _end_in_peace(cluster.workers[-1])
    cluster.workers[-1].kill()
    until(lambda: len(cluster.nodes()) == len(cluster.workers))  # the head is one of them


def join(world: World) -> bool:
    """A host joins, which was off when the sweep began."""
    absent = [host for host in world.cluster.workers if not host.is_up]
    if not absent:
        return False
    absent[0].boot()
    world.cluster.start_worker(absent[0])
    return True


FAULTS: dict[str, Fault] = {
    "worker": kill_worker,
    "controller": kill_controller,
    "raylet": kill_raylet,
    "host": lose_host,
    "link-5": cut_link(5),
    "link-30": cut_link(30),
    "link-120": cut_link(120),
    "driver": kill_driver,
    "head": lose_head,
    "mlflow": stop_mlflow,
    "postgresql": stop_postgresql,
    "disk": fill_disk,
    "storage": fill_storage,
    "sigterm": preempt,
    "join": join,
}


def drivers(cluster: RayHosts) -> list[psutil.Process]:
    """The drivers of sweeps, not the shells that have started them."""
    return [found for found in _called(cluster.head, "-m orchestrator run") if "python" in found.name()]


def _called(host: Host, text: str) -> list[psutil.Process]:
    """Processes of a host by a part of their command line."""
    return [process for process, title in host.command_lines() if text in title]
