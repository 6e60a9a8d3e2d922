"""Faults of `tools/chaos/chaos.py`, and the recovery of the cluster from each.

A fault is injected into a cluster on which a sweep runs. The cluster recovers as one with usual automation does: hosts
boot, services of hosts and servers are restarted, jobs are submitted again. The sweep itself is not touched.
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
    """Targets of faults.

    Args:
        cluster: Hosts and servers.
        sweep: Sweep that runs there.
        draw: Random generator for targets and durations.
        struck_s: Time of the last fault in seconds since the epoch.
    """

    cluster: RayHosts
    sweep: HostedSweep
    draw: random.Random
    struck_s: float = 0.0

    def pause(self, seconds: float | None = None) -> None:
        """Wait for a number of seconds, random without one; restart ended services meanwhile."""
        over = time.monotonic() + (self.draw.uniform(1.0, LONGEST_ABSENCE_S) if seconds is None else seconds)
        while time.monotonic() < over:
            self.cluster.restart_ended()
            time.sleep(0.1)

    def inject(self, fault: Fault) -> bool:
        """Inject a fault; return False when it has no target."""
        self.struck_s = time.time()
        return fault(self)

    def kill(self, victims: list[psutil.Process]) -> bool:
        """Send SIGKILL to one of several processes; return False when there is none."""
        if not victims:
            return False
        try:
            self.struck_s = time.time()
            self.draw.choice(victims).kill()
        except psutil.NoSuchProcess:
            return False
        return True

    def any_worker(self) -> Host:
        """Return a random worker host that is up."""
        return self.draw.choice([host for host in self.cluster.workers if host.is_up])


Fault = Callable[[World], bool]
"""Function that injects a fault and returns False when it has no target."""


def kill_worker(world: World) -> bool:
    """Kill a rank."""
    ranks = [found for host in world.cluster.workers for found in _called(host, "ray::RayTrainWorker")]
    return world.kill(ranks)


def kill_controller(world: World) -> bool:
    """Kill Ray Train's controller of a lane."""
    return world.kill(_called(world.cluster.head, "ray::LaneController"))


def kill_raylet(world: World) -> bool:
    """Kill the raylet of a host, whose service is restarted."""
    host = world.any_worker()
    struck = world.kill(_called(host, "raylet/raylet"))
    world.pause()
    return struck


def lose_host(world: World) -> bool:
    """Cut the power of a host, and boot it again."""
    host = world.any_worker()
    _off_and_on(host, world)
    return True


def preempt(world: World) -> bool:
    """Send SIGTERM to Ray on a host, cut its power after a grace period, and boot it again."""
    host = world.any_worker()
    _terminate_ray(host)
    _off_and_on(host, world)
    return True


def _terminate_ray(host: Host) -> None:
    for process in _called(host, "ray start"):
        process.send_signal(signal.SIGTERM)
    until(lambda: not _called(host, "raylet/raylet"), patience_s=GRACE_S)


def _off_and_on(host: Host, world: World) -> None:
    host.kill()
    world.pause()
    host.boot()
    world.cluster.start_worker(host)


def cut_link(seconds: float) -> Fault:
    """Return a fault that takes the network link of a host down for some seconds."""

    def cut(world: World) -> bool:
        host = world.any_worker()
        host.link(up=False)
        world.pause(seconds)
        host.link(up=True)
        return True

    return cut


def kill_driver(world: World) -> bool:
    """Kill the driver, and resume the sweep by submitting it again."""
    struck = world.kill(drivers(world.cluster))
    if struck:
        world.sweep.driver.wait(60)
        world.sweep.submit(resume=True)
    return struck


def lose_head(world: World) -> bool:
    """Kill Ray's control service, which ends Ray on the head; restart it, and resume the sweep by a new job."""
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
    """Kill the MLflow server, and restart it."""
    world.cluster.kill_mlflow()
    world.pause()
    world.cluster.start_mlflow()
    return True


def stop_postgresql(world: World) -> bool:
    """Stop the database of the study and of MLflow as by a power cut, and restart it."""
    world.cluster.database.stop()
    world.pause()
    world.cluster.database.start()
    return True


def fill_disk(world: World) -> bool:
    """Fill the disk of a host, and free it again."""
    host = world.any_worker()
    host.tried(["dd", "if=/dev/zero", "of=/tmp/filler", "bs=1M"])
    world.pause()
    (host.tmp / "filler").unlink()
    return True


def fill_storage(world: World) -> bool:
    """Fill the storage that all hosts share, and free it again."""
    world.cluster.head.tried(["dd", "if=/dev/zero", f"of={world.cluster.shared}/filler", "bs=64k"])
    world.pause()
    (world.cluster.shared / "filler").unlink()
    return True


def leave(cluster: RayHosts) -> None:
    """Remove a host from the cluster before a sweep begins; the fault `join` adds it again."""
    _terminate_ray(cluster.workers[-1])
    cluster.workers[-1].kill()
    until(lambda: len(cluster.nodes()) == len(cluster.workers))  # the head is one of them


def join(world: World) -> bool:
    """Add the host that was off when the sweep began."""
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
    """Return the drivers of sweeps, without the shells that have started them."""
    return [found for found in _called(cluster.head, "-m orchestrator run") if "python" in found.name()]


def _called(host: Host, text: str) -> list[psutil.Process]:
    """Return the processes of a host by a part of their command line."""
    return [process for process, title in host.command_lines() if text in title]
