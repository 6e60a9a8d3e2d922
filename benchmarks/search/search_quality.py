"""Epochs that TPE and early stopping save until a sweep has found what random search finds.

    python benchmarks/search/search_quality.py [--trials 20] [--seeds 20] [--lanes 1 4]

Sweeps are simulated on the table of `digits_table.py`, whose curves come from real trainings. Search space, sampler,
reports to Optuna and trial scheduler are those of a sweep; the scheduler is called directly. All lanes train an epoch
in the same time, and a trial that ends frees its lane for the next. Prints JSON and a table.

Random search trains all its trials to the end. The target is its best value then, the median over the seeds. The
measure is the number of epochs, summed over all lanes, until a trial first reports the target.

    expected epochs  epochs to the target when a sweep that does not find it is followed by another: all epochs that
                     all sweeps spent on the way to it or to their end, over the number of sweeps that found it
    ratio            of these, to random search
    paired           the epochs to what random search of the same seed has found at its end, over the epochs it took
                     random search itself; a sweep that never finds it counts as infinite. Median and quartiles

Source of the first: expected running time, Hansen et al. 2009 (COCO).
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from digits_table import EPOCHS, SEARCH, TRAINING, DigitsTable, Epoch

from orchestrator import SweepConfig
from orchestrator.config.plans import resolve_plans
from orchestrator.lanes.trial_client import EPOCH
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.records.journal import Journal
from orchestrator.records.ledger import Ledger, TrialRecord, TrialStatus
from orchestrator.records.objectives import Objectives
from orchestrator.search.optuna_state import optuna_state
from orchestrator.search.samplers.samplers import DIVERGED, OUTCOME, create_sampler
from orchestrator.search.schedulers.trial_schedulers import create_trial_scheduler

METHODS: Mapping[str, Mapping[str, Any]] = {
    "random": {"sampler": {"name": "random"}, "trial_scheduler": {"name": "none"}},
    "random + ASHA": {"sampler": {"name": "random"}, "trial_scheduler": {"name": "asha_stopping"}},
    "TPE": {"trial_scheduler": {"name": "none"}},
    "TPE + ASHA": {"trial_scheduler": {"name": "asha_stopping"}},
}
"""Settings of each method that differ from the defaults of a sweep."""


@dataclass
class Trace:
    """Best value of a sweep after each epoch, over all lanes in the order in which the epochs ended."""

    sign: float
    best: list[float] = field(default_factory=list)
    trained: int = 0

    def add_epoch(self, value: float) -> None:
        """Add the value of an epoch that has ended."""
        before = self.best[-1] if self.best else -math.inf
        self.best.append(max(before, self.sign * value if math.isfinite(value) else -math.inf))

    def epochs_to(self, target: float) -> float:
        """Return the number of epochs until the target was reached; infinite where it was not."""
        return next((spent for spent, value in enumerate(self.best, 1) if value >= target), math.inf)


class SimulatedTrial:
    """Trial with its tabulated curve, and the attributes that a trial scheduler reads."""

    def __init__(self, asked: optuna.Trial, config: SweepConfig, table: DigitsTable) -> None:
        self.asked = asked
        self.trial_id = str(asked.number)
        self.config = {"trial": {"number": asked.number}}
        params = config.space.sample(asked)
        self.curve: Sequence[Epoch] = table.look_up(params)
        self.record = TrialRecord(asked.number, self.trial_id, params, {}, 0.0)

    def next_result(self, metric: str) -> dict[str, float]:
        """Return the report of the next epoch."""
        epoch = self.record.epochs + 1
        shown = self.curve[epoch - 1]
        report = {EPOCH: epoch, "val/top1": shown.val_top1, "val/loss": shown.val_loss}
        self.record.reports.append(report)
        if math.isfinite(report[metric]):
            self.asked.report(report[metric], epoch)
        return report

    def status_after(self, decision: str) -> TrialStatus:
        """Return the status of the trial after a decision of the scheduler."""
        if self.record.epochs == EPOCHS:
            return TrialStatus.FINISHED
        if self.record.epochs == len(self.curve):
            return TrialStatus.DIVERGED
        return TrialStatus.PRUNED if decision == "STOP" else TrialStatus.RUNNING


def simulate(config: SweepConfig, table: DigitsTable, lanes: int) -> Trace:
    """Simulate a sweep on the table.

    Args:
        config: Configuration of the sweep.
        table: Table of the curves.
        lanes: Number of trials at the same time.
    """
    objective = config.objective
    study = optuna.create_study(
        sampler=create_sampler(config.sampler, config.space, config.seed),
        direction="maximize" if objective.mode == "max" else "minimize",
    )
    with tempfile.TemporaryDirectory() as folder, Journal(Path(folder) / "journal.jsonl") as journal:
        scheduler: Any = create_trial_scheduler(
            resolve_plans(config).search, Ledger(journal), SweepFolder(Path(folder))
        )
    scheduler.set_search_properties(objective.metric, objective.mode)
    trace = Trace(1.0 if objective.mode == "max" else -1.0)

    def begin() -> SimulatedTrial:
        trial = SimulatedTrial(study.ask(), config, table)
        scheduler.on_trial_add(None, trial)
        return trial

    running = [(1, lane, begin()) for lane in range(min(lanes, config.trials))]
    started = len(running)
    while running:
        now, lane, trial = heapq.heappop(running)
        result = trial.next_result(objective.metric)
        trace.add_epoch(result[objective.metric])
        decision = scheduler.on_trial_result(None, trial, result)
        trial.record.status = trial.status_after(decision)
        if trial.record.status is TrialStatus.RUNNING:
            heapq.heappush(running, (now + 1, lane, trial))
            continue
        _close(study, scheduler, trial, config)
        if started < config.trials:
            heapq.heappush(running, (now + 1, lane, begin()))
            started += 1
    return trace


def _close(study: optuna.Study, scheduler: Any, trial: SimulatedTrial, config: SweepConfig) -> None:
    """End a trial as a sweep does."""
    scheduler.on_trial_complete(None, trial, trial.record.reports[-1])
    state, values = optuna_state(trial.record, Objectives.of(config.objectives, config.constraints))
    if trial.record.status is TrialStatus.DIVERGED:
        trial.asked.set_user_attr(OUTCOME, DIVERGED)
    study.tell(trial.asked, values=values, state=state)


def sweep_config(method: Mapping[str, Any], *, trials: int, seed: int) -> SweepConfig:
    """Create the configuration of a sweep over the table."""
    settings = {"dataset": {"name": "digits"}, "search": SEARCH, "training": TRAINING}
    return SweepConfig(name="quality", trials=trials, seed=seed, **settings, **method)


def compare(table: DigitsTable, *, trials: int, seeds: int, lanes: int) -> dict[str, dict[str, Any]]:
    """Compare every method with random search."""
    traces = {
        name: [simulate(sweep_config(method, trials=trials, seed=seed), table, lanes) for seed in range(seeds)]
        for name, method in METHODS.items()
    }
    return {name: summary(ours, traces["random"]) for name, ours in traces.items()}


def summary(ours: Sequence[Trace], random: Sequence[Trace]) -> dict[str, Any]:
    """Compute the numbers that the module's docstring explains."""
    target = statistics.median(trace.best[-1] for trace in random)
    expected = expected_epochs(ours, target)
    paired = sorted(
        mine.epochs_to(base.best[-1]) / base.epochs_to(base.best[-1]) for mine, base in zip(ours, random, strict=True)
    )
    low, middle, high = (paired[math.floor(share * (len(paired) - 1) + 0.5)] for share in (0.25, 0.5, 0.75))
    return {
        "ratio": _shown(expected / expected_epochs(random, target)),
        "expected_epochs": _shown(expected),
        "found": sum(math.isfinite(mine.epochs_to(target)) for mine in ours),
        "paired": {"median": _shown(middle), "quartiles": [_shown(low), _shown(high)]},
        "epochs_in_all": statistics.median(len(mine.best) for mine in ours),
        "final_best": round(abs(statistics.median(mine.best[-1] for mine in ours)), 4),
    }


def expected_epochs(traces: Sequence[Trace], target: float) -> float:
    """Return the expected epochs to a target, including the epochs of sweeps that do not find it."""
    needed = [trace.epochs_to(target) for trace in traces]
    spent = sum(min(epochs, len(trace.best)) for epochs, trace in zip(needed, traces, strict=True))
    found = sum(map(math.isfinite, needed))
    return spent / found if found else math.inf


def _shown(value: float) -> float | str:
    return round(value, 2) if math.isfinite(value) else "never"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--lanes", type=int, nargs="+", default=[1, 4])
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    table = DigitsTable.read()
    results = {
        lanes: compare(table, trials=arguments.trials, seeds=arguments.seeds, lanes=lanes) for lanes in arguments.lanes
    }
    print(json.dumps({"setting": vars(arguments), "configurations": len(table), "lanes": results}, indent=2))
    print(f"{'lanes':>5} {'method':14} {'ratio':>6} {'found':>6} {'epochs':>7} {'best':>7}  paired")
    for lanes, methods in results.items():
        for name, row in methods.items():
            paired = f"{row['paired']['median']} ({' - '.join(map(str, row['paired']['quartiles']))})"
            found = f"{row['found']}/{arguments.seeds}"
            spent, best = row["expected_epochs"], row["final_best"]
            print(f"{lanes:5} {name:14} {row['ratio']:>6} {found:>6} {spent:>7} {best:7}  {paired}")


if __name__ == "__main__":
    main()
