"""Losses of a sweep when one of its processes is killed at a random moment.

    python tools/chaos/faults.py [--moments 20] [--kinds worker controller tune hub driver] [--json build/faults.json]

Sweeps run on a Ray cluster that outlives them, each with a driver of its own, while SIGKILL is sent, at random moments
from a seed, to a training worker, the controller of its lane, the Tune actor of its trial, the hub, or the driver,
which is then replaced by `spatialsweep resume`. The next moment is drawn once training has resumed. When a sweep has
ended before all moments are used, another begins.

    faults        killed processes
    sweeps        those that finished, of those that began
    trials lost   trials that did not finish
    re-run        trials that finished and began again, or fell back to their first epoch
    epochs lost   whole epochs trained and saved twice; and the largest share of an epoch not saved yet at a kill
    leaked        actors, placement groups, processes and temporary files that are there after the sweep has ended

`resources.max_failures` is the number of moments: more crashes of one trial than its default are intended here.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import random
import signal
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from disturbed_sweep import DisturbedSweep, Saves, sequences, until

KINDS = {
    "worker": "RayTrainWorker",
    "controller": "LaneController",
    "tune": "Trainable",
    "hub": "LaneHub",
    "driver": "",
}
_OF_THE_CLUSTER = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent", "ray::_AutoscalingCoordinator")
LATEST_S = 5.0  # of a moment, after training has resumed


@dataclass
class Outcome:
    """Cost of the faults of one kind."""

    kind: str
    faults: Counter[str] = field(default_factory=Counter)
    sweeps: int = 0
    finished: int = 0
    trials: int = 0
    trials_lost: int = 0
    trials_rerun: int = 0
    whole_epochs_lost: int = 0
    most_of_an_epoch_lost: float = 0.0
    seconds_to_next_report: dict[str, list[float]] = field(default_factory=dict)
    leaked: list[str] = field(default_factory=list)

    @property
    def harmless(self) -> bool:
        """True when no more than parts of epochs was lost."""
        lost = self.trials_lost + self.trials_rerun + len(self.leaked) + (self.sweeps - self.finished)
        return lost == 0 and self.most_of_an_epoch_lost <= 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=20)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--trials", type=int, default=6)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--together", action="store_true", help="all kinds in the same sweeps, in random order")
    parser.add_argument("--limit-s", type=float, help="for each table row: no moment is drawn after it")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    outcomes = []
    with tempfile.TemporaryDirectory() as place, lasting_cluster(arguments.workers) as address:
        for sequence in sequences(arguments, arguments.moments):
            shape = {"trials": arguments.trials, "epochs": arguments.epochs, "workers": arguments.workers}
            when = {"seed": arguments.seed, "limit_s": arguments.limit_s or math.inf}
            outcomes.append(run_sequence(sequence, Path(place) / f"faults-{len(outcomes)}", address, **when, **shape))
            print(table(outcomes), flush=True)
            if arguments.json:
                write(outcomes, arguments)


def write(outcomes: Sequence[Outcome], arguments: argparse.Namespace) -> None:
    """Write the outcomes so far as JSON."""
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    setting = {**vars(arguments), "json": str(arguments.json), "cpus": os.cpu_count()}
    rows = [vars(outcome) for outcome in outcomes]
    arguments.json.write_text(json.dumps({"setting": setting, "faults": rows}, indent=2))


def table(outcomes: Sequence[Outcome]) -> str:
    """Format the outcomes as a table."""
    lines = [
        "| killed | faults | sweeps | trials lost | re-run | epochs lost: whole, most of one | next report | leaked |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in outcomes:
        kinds = one.kind.split("+")
        faults = ", ".join(str(one.faults[kind]) for kind in kinds)
        after = ", ".join(f"{statistics.median(one.seconds_to_next_report.get(kind, [0])):.1f}" for kind in kinds)
        lines.append(
            f"| {', '.join(kinds)} | {faults} | {one.finished} of {one.sweeps} | {one.trials_lost} of {one.trials} | "
            f"{one.trials_rerun} | {one.whole_epochs_lost}, {one.most_of_an_epoch_lost:.2f} | {after} s | "
            f"{len(one.leaked)} |"
        )
    return "\n".join(lines)


@contextlib.contextmanager
def lasting_cluster(cpus: int) -> Iterator[str]:
    """Start a Ray cluster on this machine for several sweeps, and connect this process to it."""
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": cpus, "include_dashboard": False})
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        yield cluster.address
    finally:
        ray.shutdown()
        cluster.shutdown()


def run_sequence(
    sequence: Sequence[str],
    place: Path,
    address: str,
    *,
    trials: int,
    epochs: int,
    workers: int,
    seed: int = 0,
    limit_s: float = math.inf,
    **more: Any,
) -> Outcome:
    """Kill the processes of a sequence, one after the other, and return the outcome; more settings go to the sweep."""
    moments, draw, began = list(sequence), random.Random(seed), time.monotonic()
    outcome = Outcome("+".join(kind for kind in KINDS if kind in sequence))
    while moments:
        sweep = DisturbedSweep(place, f"sweep-{outcome.sweeps}", address)
        sweep.write(trials=trials, epochs=epochs, workers=workers, max_failures=len(sequence), **more)
        sweep.start("run", str(sweep.file))
        outcome.sweeps += 1
        with Saves(sweep.folder / "trials") as saves:
            while moments and sweep.has_reported():
                if not inject(moments[0], sweep, saves, draw, outcome):
                    break  # the sweep was over first
                moments.pop(0)
                if time.monotonic() - began > limit_s:
                    moments = []
            finished = sweep.finishes()
        outcome.finished += finished
        if not finished:
            moments = []  # to be investigated
        account(sweep, trials, saves, outcome)
    outcome.leaked += wait_for_cleanup()
    return outcome


def inject(kind: str, sweep: DisturbedSweep, saves: Saves, draw: random.Random, outcome: Outcome) -> bool:
    """Kill one process at a random moment; return False when the sweep was over before."""
    time.sleep(draw.uniform(0.0, LATEST_S))
    victims: list[int] = []

    def found() -> bool:
        victims[:] = [sweep.driver.pid] if kind == "driver" else pids_of(KINDS[kind])
        return bool(victims) or sweep.is_over

    until(found)
    if sweep.is_over or not victims:
        return False
    epoch_s = sweep.seconds_per_epoch()
    struck_s = time.time()
    os.kill(draw.choice(victims), signal.SIGKILL)
    outcome.faults[kind] += 1
    if kind not in ("tune", "hub"):  # the lane continues without it
        outcome.most_of_an_epoch_lost = max(
            outcome.most_of_an_epoch_lost, min(1.0, (struck_s - saves.last_s) / epoch_s) if saves.last_s else 0.0
        )
    if kind == "driver":
        sweep.driver.wait()
        sweep.start("resume", sweep.name)
    until(lambda: sweep.next_report_s(struck_s) is not None or sweep.is_over)
    if (reported_s := sweep.next_report_s(struck_s)) is not None:
        outcome.seconds_to_next_report.setdefault(kind, []).append(reported_s - struck_s)
    return True


def account(sweep: DisturbedSweep, trials: int, saves: Saves, outcome: Outcome) -> None:
    """Add the losses of a sweep to the outcome."""
    last_end, again = sweep.ends()
    outcome.trials += trials
    outcome.trials_lost += trials - sum(status == "finished" for status in last_end.values())
    outcome.trials_rerun += len(again | saves.from_the_start())
    outcome.whole_epochs_lost += saves.repeated()
    # torch keeps a cache there for later processes
    temporary = [path for path in sweep.temporary.iterdir() if not path.name.startswith("torchinductor_")]
    outcome.leaked += [*sweep.files_left(), *map(str, temporary)]


def pids_of(name: str) -> list[int]:
    """Return the process ids of the cluster's live actors of a class."""
    import ray

    actors = ray._private.state.actors().values()
    return [actor["Pid"] for actor in actors if actor["State"] == "ALIVE" and name in actor["ActorClassName"]]


def wait_for_cleanup() -> list[str]:
    """Return actors, placement groups and processes that are left over a minute after all sweeps."""
    found: list[str] = []

    def is_clean() -> bool:
        found[:] = [*_actors(), *_placement_groups(), *_processes()]
        return not found

    until(is_clean, patience_s=90.0)
    return found


def _actors() -> list[str]:
    import ray

    alive = [actor["ActorClassName"] for actor in ray._private.state.actors().values() if actor["State"] != "DEAD"]
    return [f"actor {name}" for name in alive if name != "_AutoscalingCoordinatorActor"]  # which is Ray Train's own


def _placement_groups() -> list[str]:
    from ray.util import placement_group_table

    states = [group["state"] for group in placement_group_table().values()]
    return [f"placement group {state}" for state in states if state != "REMOVED"]


def _processes() -> list[str]:
    """Return Ray's workers below this process that belong to a sweep."""
    import psutil

    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            title = " ".join(process.cmdline()).strip()[:60]
            if title.startswith("ray::") and not title.startswith(_OF_THE_CLUSTER):
                found.append(f"process {title}")
    return found


if __name__ == "__main__":
    main()
