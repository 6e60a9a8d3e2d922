"""Losses of a sweep on several hosts under random failures of processes, hosts, networks, disks and servers.

    python tools/chaos/chaos.py [--kinds host link-30 ...] [--times 20] [--limit-s 240] [--json build/chaos.json]

Three hosts on this machine (`tests/support/hosts.py`; root only), each with its own network, processes and disk: a head
without trials, with MLflow and PostgreSQL, and two workers. A sweep runs without faults first. Then the same sweep with
the same seeds is submitted repeatedly from a fourth host, and faults of one kind are injected; when a sweep has ended
before all faults were, another begins. The faults are those of `tools/chaos/chaos_faults.py`.

    epochs lost   whole epochs trained and saved twice; and the largest share of a running epoch that one fault lost
    next report   median seconds from the fault to the next report, including an absence that is part of the fault
                  where training waits for it; when a host joins, to the first report of an additional lane
    sweeps        those that finished, of those that began
    trials lost   trials that did not finish
    re-run        trials that finished and began again, or fell back to their first epoch
    unrecorded    trials that are not finished in PostgreSQL or MLflow
    differing     metrics of any epoch that differ, in any bit, from those of the sweep without faults
    left          actors, placement groups, processes and files that are there after all sweeps

`resources.max_failures` is the number of faults: more crashes of one trial than its default are intended here.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import math
import os
import random
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from chaos_faults import FAULTS, World, leave
from disturbed_sweep import Saves, sequences, until
from hosted_sweep import HostedSweep, Metrics, differing, left_over

from tests.support.hosts import missing
from tests.support.ray_hosts import RayHosts, ray_hosts

PATIENCE_S = 300.0
LATEST_S = 5.0  # of a fault, after training has resumed
_WORKER_DISK_MB = 512
_STORAGE_MB = 1024  # a sweep that is stopped and resumed all the time writes 60 to 100
_NEW_MOUNTS = 0x00020000  # CLONE_NEWNS


@dataclass(frozen=True)
class Shape:
    """Size of every sweep.

    Args:
        trials: Number of trials.
        epochs: Number of epochs of a trial.
        workers: Number of ranks of a trial; a host has room for one.
    """

    trials: int = 4
    epochs: int = 12
    workers: int = 2


@dataclass
class Cost:
    """Cost of the faults of one kind while the sweep continued.

    Args:
        faults: Number of faults.
        whole_epochs_lost: Number of epochs saved a second time before the next report.
        most_of_an_epoch_lost: Largest share of an epoch that was not saved yet at a fault.
        seconds_to_next_report: Seconds after each fault, including the absence that is part of it.
    """

    faults: int = 0
    whole_epochs_lost: int = 0
    most_of_an_epoch_lost: float = 0.0
    seconds_to_next_report: list[float] = field(default_factory=list)


@dataclass
class Outcome:
    """Outcome of the sweeps under a sequence of faults."""

    costs: dict[str, Cost] = field(default_factory=dict)
    sweeps: int = 0
    finished: int = 0
    trials: int = 0
    trials_lost: int = 0
    trials_rerun: int = 0
    unrecorded: int = 0
    whole_epochs_lost: int = 0
    differing: int = 0
    left: list[str] = field(default_factory=list)

    @property
    def faults(self) -> int:
        """Number of faults of all kinds."""
        return sum(cost.faults for cost in self.costs.values())

    @property
    def harmless(self) -> bool:
        """True when no more was lost than an epoch, or a part of one, at each fault."""
        lost = self.trials_lost + self.trials_rerun + self.unrecorded + self.differing + len(self.left)
        return lost == 0 and self.finished == self.sweeps and self.whole_epochs_lost <= self.faults


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=list(FAULTS), default=[kind for kind in FAULTS if kind != "join"])
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--trials", type=int, default=Shape.trials)
    parser.add_argument("--epochs", type=int, default=Shape.epochs)
    parser.add_argument("--workers", type=int, default=Shape.workers)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--together", action="store_true", help="all kinds in the same sweeps, in random order")
    parser.add_argument("--limit-s", type=float, default=math.inf, help="of each kind: no fault is injected after it")
    parser.add_argument("--keep", type=Path, help="folder for all files, which are kept; otherwise it is temporary")
    parser.add_argument(
        "--reference", type=Path, help="file of the metrics of the sweep without faults; written if absent"
    )
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if why_not := missing():
        parser.error(why_not)
    if "head" in arguments.kinds and shutil.which("redis-server") is None:
        parser.error("the fault 'head' needs redis-server (Debian: redis-server); choose --kinds without it")
    if "join" in arguments.kinds and (arguments.workers > 1 or arguments.together):
        parser.error(
            "'join' is for --workers 1, without --together: a lane of two waits until the second host is there"
        )
    shape = Shape(arguments.trials, arguments.epochs, arguments.workers)
    outcomes = []
    with (
        tempfile.TemporaryDirectory(prefix="chaos-") as place,
        storage_of_its_own(arguments.keep or Path(place), "storage" in arguments.kinds) as folder,
        ray_hosts(folder, tmp_mb=_WORKER_DISK_MB, redis="head" in arguments.kinds) as cluster,
    ):
        reference = reference_metrics(cluster, shape, arguments.reference)
        for sequence in sequences(arguments, arguments.times):
            draw = random.Random(f"{arguments.seed} {sequence[0]}")
            outcomes.append(run_sequence(sequence, cluster, shape, reference, draw=draw, limit_s=arguments.limit_s))
            print(table(outcomes), flush=True)
            for left in outcomes[-1].left:
                print(f"left: {left}")
            if arguments.json:
                write(outcomes, arguments)


@contextlib.contextmanager
def storage_of_its_own(folder: Path, wanted: bool) -> Iterator[Path]:
    """Put the shared folder on a small disk that can be filled; only this process and its hosts have it mounted."""
    shared = folder / "shared"
    shared.mkdir(parents=True, exist_ok=True)
    if wanted:
        if ctypes.CDLL(None, use_errno=True).unshare(_NEW_MOUNTS):
            raise OSError(ctypes.get_errno(), "a mount namespace cannot be created")
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_STORAGE_MB}m", "tmpfs", shared], check=True)
    try:
        yield folder
    finally:
        if wanted:
            subprocess.run(["umount", "--lazy", shared], check=True)


def table(outcomes: Sequence[Outcome]) -> str:
    """Format the outcomes; several kinds of faults together have one row of their own."""
    lines = [
        "| fault | faults | epochs lost: whole, most of one | next report | sweeps | trials lost | re-run | unrecorded "
        "| differing | left |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in outcomes:
        sums = (
            f"{one.finished} of {one.sweeps} | {one.trials_lost} of {one.trials} | {one.trials_rerun} | "
            f"{one.unrecorded} | {one.differing} | {len(one.left)} |"
        )
        alone = len(one.costs) == 1
        for kind, cost in one.costs.items():
            after = statistics.median(cost.seconds_to_next_report or [0.0])
            epochs = f"{cost.whole_epochs_lost}, {cost.most_of_an_epoch_lost:.2f}"
            lines.append(f"| {kind} | {cost.faults} | {epochs} | {after:.1f} s | {sums if alone else '| | | | | |'}")
        if not alone:
            lines.append(f"| together | {one.faults} | {one.whole_epochs_lost} | | {sums}")
    return "\n".join(lines)


def write(outcomes: Sequence[Outcome], arguments: argparse.Namespace) -> None:
    """Write the outcomes so far as JSON."""
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    given = {name: str(value) if isinstance(value, Path) else value for name, value in vars(arguments).items()}
    setting = {**given, "cpus": os.cpu_count()}
    content = {"setting": setting, "faults": [asdict(outcome) for outcome in outcomes]}
    arguments.json.write_text(json.dumps(content, indent=2))


def reference_metrics(cluster: RayHosts, shape: Shape, kept: Path | None = None) -> Metrics:
    """Return the metrics of the sweep without faults, run now or before."""
    if kept is not None and kept.exists():
        found: Metrics = json.loads(kept.read_text())
        return found
    sweep = HostedSweep(cluster, "reference")
    sweep.prepare(**asdict(shape), max_failures=0)
    sweep.submit()
    assert sweep.finishes(), sweep.log.read_text()[-4000:]
    if kept is not None:
        kept.write_text(json.dumps(sweep.metrics()))
    return sweep.metrics()


def run_sequence(
    sequence: Sequence[str],
    cluster: RayHosts,
    shape: Shape,
    reference: Metrics,
    *,
    draw: random.Random,
    limit_s: float = math.inf,
) -> Outcome:
    """Inject the faults of a sequence, one after the other, and return the outcome."""
    moments, outcome, over = list(sequence), Outcome(), time.monotonic() + limit_s
    while moments and time.monotonic() < over:
        sweep = HostedSweep(cluster, f"{moments[0]}-{len(moments)}")
        sweep.prepare(**asdict(shape), max_failures=len(sequence))
        if moments[0] == "join":
            leave(cluster)
        sweep.submit()
        outcome.sweeps += 1
        world = World(cluster, sweep, draw)
        with Saves(sweep.folder / "trials") as saves:
            while moments and time.monotonic() < over and sweep.has_reported():
                if not inject(moments[0], world, saves, outcome):
                    break  # the sweep was over first
                moments.pop(0)
            finished = finishes(world)
        outcome.finished += finished
        account(sweep, shape, saves, reference, outcome)
        if not finished:
            print(sweep.log.read_text()[-6000:])
            break  # to be investigated
    outcome.left += wait_for_cleanup(cluster)
    return outcome


def wait_for_cleanup(cluster: RayHosts) -> list[str]:
    """Return what is left over a minute after all sweeps."""
    until(lambda: not list(left_over(cluster)), patience_s=90.0)
    return list(left_over(cluster))


def inject(kind: str, world: World, saves: Saves, outcome: Outcome) -> bool:
    """Inject one fault at a random moment; return False when the sweep was over before."""
    sweep, cost = world.sweep, outcome.costs.setdefault(kind, Cost())
    world.pause(world.draw.uniform(0.0, LATEST_S))
    if sweep.is_over:
        return False
    epoch_s, saved, repeated = sweep.seconds_per_epoch(), saves.last_s, saves.repeated()
    while not world.inject(FAULTS[kind]):  # its target is being restarted
        if sweep.is_over:
            return False
        world.pause(0.2)
    cost.faults += 1
    if saved:
        cost.most_of_an_epoch_lost = max(cost.most_of_an_epoch_lost, min(1.0, (world.struck_s - saved) / epoch_s))

    answers = sweep.grown_s if kind == "join" else sweep.next_report_s

    def resumed() -> bool:
        world.cluster.restart_ended()
        return answers(world.struck_s) is not None or sweep.is_over

    until(resumed, PATIENCE_S)
    cost.whole_epochs_lost += saves.repeated() - repeated
    reported_s = answers(world.struck_s)
    if reported_s is None:
        print(f"{kind}: no report within {time.time() - world.struck_s:.1f} s", flush=True)
    else:
        cost.seconds_to_next_report.append(reported_s - world.struck_s)
        print(f"{kind}: next report after {cost.seconds_to_next_report[-1]:.1f} s", flush=True)
    return True


def finishes(world: World) -> bool:
    """Wait for the end of a sweep, while services are restarted; return whether it finished."""

    def ended() -> bool:
        world.cluster.restart_ended()
        return world.sweep.driver.poll() is not None

    until(ended, PATIENCE_S)
    return world.sweep.finishes(patience_s=1.0)


def account(sweep: HostedSweep, shape: Shape, saves: Saves, reference: Metrics, outcome: Outcome) -> None:
    """Add the losses of a sweep to the outcome."""
    last_end, again = sweep.ends()
    outcome.trials += shape.trials
    outcome.trials_lost += shape.trials - sum(status == "finished" for status in last_end.values())
    outcome.trials_rerun += len(again | saves.from_the_start())
    outcome.whole_epochs_lost += saves.repeated()
    outcome.unrecorded += sweep.unrecorded(shape.trials)
    outcome.differing += differing(sweep.metrics(), reference)
    outcome.left += sweep.files_left()


if __name__ == "__main__":
    main()
