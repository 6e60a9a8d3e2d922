"""Cost of a sweep with thousands of trials: time per report, and memory of the driver.

    python benchmarks/scale/scale.py [--trials 100 1000] [--lanes 4] [--sampler tpe] [--scheduler none]
        [--storage sqlite]

Everything of a sweep is real, `run_sweep` from end to end: Tune with its trial actors, our searcher over Optuna's
database, the hub, the journal, the ledger and MLflow. Only the worker groups are replaced: one process acts as all
lanes and answers each assignment with a synthetic curve at once. Prints JSON, for each number of trials:

    ms_per_report      wall-clock time between the first and the last report over their number, with all that lies
                       between: proposing, starting and ending trials
    cpu_ms_per_report  processor time of the driver alone in that time, all its threads
    ms_by_fifth, cpu_ms_by_fifth
                       both for each fifth of the reports, in order: whether they grow
    reports_by_trial   reports over ends and pauses, for each fifth: where trials are stopped early, later ones
                       bring fewer reports, each of which bears more of the cost of a trial's begin and end
    pauses             number of pauses
    rss_mb             memory of the driver at the first report, and at the last
    tracking_lag_s     how long MLflow took after the last trial to have everything
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import math
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

SCHEDULERS: Mapping[str, Mapping[str, Any]] = {
    "asha": {"name": "asha", "grace_epochs": 1, "reduction_factor": 3},
    "asha_stopping": {"name": "asha_stopping", "grace_epochs": 1, "reduction_factor": 3},
    "none": {"name": "none"},
}
SEARCH: Mapping[str, Any] = {
    "model": {"choices": ["conv_resnet26_small", "adaptive_resnet26_small"]},
    "max_span": {"type": "int", "low": 1, "high": 5, "when": {"model": "adaptive_resnet26_small"}},
    "optimizer": {"choices": ["sgd", "adamw"]},
    "lr": {"type": "float", "low": 1e-4, "high": 1.0, "log": True},
    "weight_decay": {"type": "float", "low": 1e-5, "high": 1.0, "log": True},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 1_000])
    parser.add_argument("--lanes", type=int, default=4)
    parser.add_argument("--sampler", default="tpe")
    parser.add_argument("--scheduler", choices=list(SCHEDULERS), default="asha")
    parser.add_argument("--epochs", type=int, default=9, help="reports of a trial that is not stopped")
    parser.add_argument("--wall-clock", help="end each sweep after so long, such as 5m, with what there is")
    parser.add_argument("--storage", choices=["sqlite", "postgresql"], default="sqlite")
    arguments = parser.parse_args()

    import ray

    from orchestrator.runtime.ray_session import ray_session

    logging.getLogger("ray").setLevel(logging.ERROR)
    with ray_session():
        sizes = {trials: measure(trials, arguments) for trials in arguments.trials}
    assert not ray.is_initialized()
    print(json.dumps({"setting": vars(arguments) | {"cpus": os.cpu_count()}, "sizes": sizes}, indent=2))


def measure(trials: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run one sweep of a number of trials, and return its numbers."""
    from orchestrator import SweepConfig, run_sweep

    replace_lanes(arguments.lanes)
    with (
        tempfile.TemporaryDirectory() as folder,
        watched_process() as samples,
        databases(arguments.storage) as (study, tracking),
    ):
        config = SweepConfig(
            name="scale",
            dataset={"name": "digits"},
            search=SEARCH,
            training={"epochs": arguments.epochs},
            trials=trials,
            sampler={"name": arguments.sampler},
            trial_scheduler=SCHEDULERS[arguments.scheduler],
            resources={"workers": 1, "cpus_per_worker": 1 / arguments.lanes, "lanes": arguments.lanes},
            runs_dir=folder,
            budget={"wall_clock": arguments.wall_clock},
            storage={"uri": study},
            tracking={"uri": tracking},
        )
        result = run_sweep(config)
        found = summary(result.folder / "journal.jsonl", time.time(), samples)
        if result.notice:
            found["notice"] = result.notice
        print(json.dumps({trials: found}), file=sys.stderr, flush=True)
        return found


def summary(journal: Path, over: float, samples: Sequence[Sample]) -> dict[str, Any]:
    """Return the numbers that the module's docstring lists."""
    events = [json.loads(line) for line in journal.read_text().splitlines()]
    reports = [event["time"] for event in events if event["event"] == "trial_reported"]
    ends = [event["time"] for event in events if event["event"] in ("trial_ended", "trial_paused")]
    edges = [round(index * (len(reports) - 1) / 5) for index in range(6)]
    first, last = _at(reports[0], samples), _at(reports[-1], samples)

    def per_report(a: int, b: int) -> tuple[float, float]:
        cpu_s = _at(reports[b], samples).cpu_s - _at(reports[a], samples).cpu_s
        return round(1e3 * (reports[b] - reports[a]) / (b - a), 1), round(1e3 * cpu_s / (b - a), 1)

    fifths = [per_report(a, b) for a, b in itertools.pairwise(edges)]
    wall, cpu = per_report(0, len(reports) - 1)
    return {
        "trials_ended": len({event["trial"] for event in events if event["event"] in ("trial_ended", "trial_paused")}),
        "pauses": sum(event["event"] == "trial_paused" for event in events),
        "reports": len(reports),
        "ms_per_report": wall,
        "cpu_ms_per_report": cpu,
        "ms_by_fifth": [fifth[0] for fifth in fifths],
        "cpu_ms_by_fifth": [fifth[1] for fifth in fifths],
        "reports_by_trial": [
            round((b - a) / max(1, sum(reports[a] < end <= reports[b] for end in ends)), 1)
            for a, b in itertools.pairwise(edges)
        ],
        "rss_mb": [round(first.rss_mb), round(last.rss_mb)],
        "tracking_lag_s": round(over - max(ends), 1),
    }


class Sample(NamedTuple):
    """Resource use of this process at a moment."""

    time: float
    cpu_s: float
    rss_mb: float


def _at(moment: float, samples: Sequence[Sample]) -> Sample:
    return min(samples, key=lambda sample: abs(sample.time - moment))


@contextmanager
def watched_process() -> Iterator[list[Sample]]:
    """Sample this process five times a second while the context is open."""
    samples: list[Sample] = []
    over = threading.Event()
    page_mb = os.sysconf("SC_PAGE_SIZE") / 2**20

    def watch() -> None:
        while not over.wait(0.2):
            resident = int(Path("/proc/self/statm").read_text().split()[1])
            samples.append(Sample(time.time(), time.process_time(), resident * page_mb))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()


@contextmanager
def databases(kind: str) -> Iterator[tuple[str | None, str | None]]:
    """Yield the addresses of the study and MLflow: None for files in the runs folder, else on a PostgreSQL server."""
    if kind == "sqlite":
        yield None, None
        return
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from sqlalchemy import create_engine, text

    from tests.support.servers.postgresql import postgresql_server

    with postgresql_server() as server:
        engine = create_engine(server.uri(), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text("CREATE DATABASE mlflow"))
        engine.dispose()
        yield server.uri(), server.uri("mlflow")


def replace_lanes(count: int) -> None:
    """Replace Ray Train's worker groups by a number of simulated ones."""
    import ray

    from orchestrator.lanes.pool import lane_trainer

    process = ray.remote(num_cpus=0, max_concurrency=1_000)(SimulatedGroups).remote(count)

    def run_lane(setting: Any, _placement: Any, _on_start: Any) -> None:
        ray.get(process.serve.remote(setting.hub, setting.lane))

    lane_trainer.run_lane = run_lane


class SimulatedGroups:
    """Simulation of all lanes of a sweep in one process, without training.

    No trial ends before every lane has had one: Tune discards an actor that has not started when another is free, so
    with trials of milliseconds there would never be as many actors as lanes.

    Args:
        lanes: Number of lanes.
    """

    def __init__(self, lanes: int) -> None:
        self._all_have_one = threading.Barrier(lanes)

    def serve(self, hub: Any, lane: int) -> None:
        """Answer assignments as the only rank of a lane, until the sweep is over."""
        import ray

        from orchestrator.lanes.messages import Decision, Outcome, RankId, Report, TrialOutcome

        rank_id = RankId(lane, ray.get(hub.new_generation.remote(lane)), 0, 1)
        ray.get(hub.join.remote(rank_id))
        left, last_report = None, None
        while (assignment := ray.get(hub.next_assignment.remote(rank_id, left, last_report))) is not None:
            hub.begin.remote(rank_id, assignment)
            if left is None:
                self._all_have_one.wait(timeout=120)
            left, last_report = assignment, None
            for epoch, metrics in invented_curve(assignment.config):
                report = Report(epoch, metrics, is_last=epoch >= assignment.config["training"]["epochs"])
                if report.is_last:
                    last_report = report
                elif ray.get(hub.report.remote(rank_id, assignment, report)) is Decision.STOP:
                    ray.get(hub.finish.remote(rank_id, assignment, TrialOutcome(Outcome.STOPPED)))
                    break


def invented_curve(trial: Mapping[str, Any]) -> Iterator[tuple[int, dict[str, float]]]:
    """Yield metrics of each epoch as training reports them, which depend on the settings."""
    training = trial["training"]
    chance = random.Random(trial["number"])
    distance = abs(math.log10(training["lr"]) + 2) + 0.2 * abs(math.log10(training["weight_decay"]) + 3)
    ceiling = 0.98 - 0.1 * distance + chance.gauss(0, 0.01)
    for epoch in range(1, training["epochs"] + 1):
        top1 = ceiling * (1 - math.exp(-epoch / 2)) + chance.gauss(0, 0.005)
        metrics = {"train/loss": 1 - top1, "val/loss": 1.1 - top1, "val/top1": top1, "val/top5": (1 + top1) / 2}
        clocks = {
            "lr": training["lr"],
            "images_per_s": 1e3,
            "time/data_s": 0.01,
            "time/step_s": 0.2,
            "epoch_time_s": 0.3,
        }
        test = {"test/top1": top1, "test/top5": top1, "best_epoch": epoch} if epoch == training["epochs"] else {}
        yield epoch, metrics | clocks | test


if __name__ == "__main__":
    main()
