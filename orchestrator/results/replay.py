"""Replay of a stored sweep: what another strategy would have found on its recorded curves, and at what cost.

Only recorded configurations can be proposed, and a curve is known as far as it was trained. Both limits are part of the
result.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from orchestrator.config.sections.study import SamplerConfig, TrialSchedulerConfig
from orchestrator.config.strategy import AUTO, choose_scheduler, parse_strategy
from orchestrator.config.validation.sampler_rules import sampler_problems
from orchestrator.errors import ConfigError, Problem
from orchestrator.records.events import TrialReported, TrialResumed, TrialStarted
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.records.journal import read_events
from orchestrator.records.objectives import Objectives
from orchestrator.records.status import TrialStatus
from orchestrator.records.trials import TrialRecord
from orchestrator.results.stored_sweep import StoredSweep, find_sweep, read_sweep
from orchestrator.search.allocation.allocator import AllocationSetting, Allocator
from orchestrator.search.allocation.rules import ALLOCATORS
from orchestrator.search.samplers.choice import FIRST_RULES, NEWEST_RULES, may_end_early, second_rung
from orchestrator.search.samplers.samplers import create_sampler
from orchestrator.search.simulation.curves import Curve, ListedCurves
from orchestrator.search.simulation.simulator import SimulationSetting, simulate
from orchestrator.search.simulation.trace import Trace
from search_spaces import Domain, SearchSpace

SEEDS = 5
_SETTLED = (TrialStatus.FINISHED, TrialStatus.DIVERGED)
_NOT_REPLAYED = "pbt"
_DOMAINS: TypeAdapter[dict[str, Domain]] = TypeAdapter(dict[str, Domain])


@dataclass(frozen=True)
class Outcome:
    """Result of a sweep, and its cost.

    Args:
        best: Best value of the first objective; None without any.
        trial: Number of the recorded trial that reported it.
        epochs: Epochs of all trials.
        lane_s: Seconds that lanes were held by trials.
        wall_s: Seconds from the start to the end; None for a sweep that also trained repeats with other seeds.
    """

    best: float | None
    trial: int | None
    epochs: int
    lane_s: float
    wall_s: float | None


@dataclass(frozen=True)
class ReplayedSweep:
    """Replay of a strategy with one seed.

    Args:
        seed: Seed of the sampler.
        found: What it found, and at what cost.
        epochs_to_recorded_best: Epochs until it found what the recorded sweep found; None where it did not.
        wall_s_to_recorded_best: Seconds until then.
        trials: Number of trials by status.
        cut: Trials that the strategy would have trained beyond their recorded epochs; they end there.
        continuations: Decisions to train a running trial further, those about cut trials included.
    """

    seed: int
    found: Outcome
    epochs_to_recorded_best: int | None
    wall_s_to_recorded_best: float | None
    trials: Mapping[str, int]
    cut: int
    continuations: int


@dataclass(frozen=True)
class Replay:
    """Replay of a stored sweep with another strategy.

    Args:
        sweep: Name of the sweep.
        metric: First objective.
        mode: `max` or `min`.
        sampler: Name of the sampler.
        trial_scheduler: Name of the trial scheduler.
        lanes: Number of trials at the same time.
        configurations: Number of recorded configurations that can be proposed.
        left_out: Number of trials without a report, or outside the space of the sweep.
        repeats: Number of trials that repeat a configuration with another seed; neither replayed nor counted elsewhere.
        partial: Number of configurations whose curve was not trained to the end.
        recorded: What the sweep itself found, and at what cost.
        replays: One for each seed.
    """

    sweep: str
    metric: str
    mode: str
    sampler: str
    trial_scheduler: str
    lanes: int
    configurations: int
    left_out: int
    repeats: int
    partial: int
    recorded: Outcome
    replays: tuple[ReplayedSweep, ...] = field(repr=False)

    @property
    def cut_share(self) -> float:
        """Share of all trials of all seeds that the strategy would have trained beyond their recorded epochs."""
        begun = sum(sum(replay.trials.values()) for replay in self.replays)
        return sum(replay.cut for replay in self.replays) / begun if begun else 0.0

    @property
    def found_recorded_best(self) -> int:
        """Number of seeds with which the strategy found what the sweep found."""
        return sum(replay.epochs_to_recorded_best is not None for replay in self.replays)

    def median(self, name: str) -> float | None:
        """Return the median over the seeds of a field of `Outcome`; None where no seed has a value."""
        values = [value for replay in self.replays if (value := getattr(replay.found, name)) is not None]
        return statistics.median(values) if values else None

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        medians = {name: self.median(name) for name in ("best", "epochs", "lane_s", "wall_s")}
        return {
            **asdict(self),
            "median": medians,
            "cut_share": self.cut_share,
            "found_recorded_best": self.found_recorded_best,
        }


def replay_sweep(
    sweep: str | Path,
    strategy: str,
    *,
    lanes: int | None = None,
    seeds: int = SEEDS,
    runs_dir: str | Path | None = None,
) -> Replay:
    """Replay a stored sweep with another strategy, on its recorded curves.

    Args:
        sweep: Name or folder of the sweep.
        strategy: Name of a sampler or of a trial scheduler, or both as `SAMPLER+SCHEDULER`, where what is not named
            stays as in the sweep; or `auto`.
        lanes: Number of trials at the same time; None takes the number that the sweep used.
        seeds: Number of seeds of the sampler.
        runs_dir: Folder of results in which to look up the name; None takes the default.

    Raises:
        SweepNameError: There is no such sweep; the message names the nearest one.
        ConfigError: The strategy is unknown or does not suit the sweep, a number is below 1, or no trial has reported.
    """
    stored = read_sweep(find_sweep(sweep, runs_dir))
    sampler, scheduler = _parse(strategy, stored, lanes, seeds)
    usable, left_out = _usable(stored)
    table = _table(stored, usable)
    lanes = lanes or lanes_used(SweepFolder(stored.folder).journal)
    recorded = _recorded(stored)
    replays = []
    for seed in range(seeds):
        epochs = (stored.config.get("budget") or {}).get("epochs")
        factor, grace = scheduler.reduction_factor, min(scheduler.grace_epochs, table.max_epochs)
        setting = AllocationSetting(len(usable), table.max_epochs, grace, factor, epochs, seed)
        allocator = _allocator(scheduler, setting)
        drawn = create_sampler(
            sampler,
            table.space,
            seed,
            trials=len(usable),
            objectives=table.objectives,
            ends_early=may_end_early(scheduler.name),
            second_rung=second_rung(scheduler, table.max_epochs),
        )
        trace = simulate(table, drawn, allocator, SimulationSetting(lanes, epochs=epochs))
        replays.append(_summary(seed, trace, recorded, usable, stored.result.mode))
    return Replay(
        sweep=stored.name,
        metric=stored.result.metric,
        mode=stored.result.mode,
        sampler=drawn.name,
        trial_scheduler=scheduler.name,
        lanes=lanes,
        configurations=len(usable),
        left_out=left_out,
        repeats=sum(record.is_repeat for record in stored.result.records),
        partial=sum(record.status not in _SETTLED for record in usable),
        recorded=recorded,
        replays=tuple(replays),
    )


def lanes_used(journal: Path) -> int:
    """Return the number of lanes on which the trials of a sweep were trained; at least 1.

    Args:
        journal: Journal of the sweep.
    """
    reports = (event for event, _ in read_events(journal) if isinstance(event, TrialReported))
    return max(1, len({event.lane for event in reports if event.lane is not None}))


def _parse(
    strategy: str, stored: StoredSweep, lanes: int | None, seeds: int
) -> tuple[SamplerConfig, TrialSchedulerConfig]:
    """Return the sampler and the trial scheduler of a strategy, and raise an error with all that is wrong."""
    sampler = SamplerConfig.model_validate(stored.config.get("sampler") or {})
    scheduler = TrialSchedulerConfig.model_validate(stored.config.get("trial_scheduler") or {})
    objectives = len(stored.result.objectives.configs) if stored.result.objectives else 1
    names, problems = parse_strategy(strategy, "--strategy")
    chosen = names.trial_scheduler
    if strategy == AUTO:
        epochs = max((int(record.config["training"]["epochs"]) for record in stored.result.records), default=1)
        chosen, _ = choose_scheduler(epochs=epochs, grace_epochs=scheduler.grace_epochs, objectives=objectives)
    wanted = AUTO if strategy == AUTO else names.sampler
    if wanted not in (None, sampler.name):
        sampler = SamplerConfig.model_validate({"name": wanted})
    elif wanted == AUTO:
        sampler = sampler.model_copy(update={"rules": NEWEST_RULES})
    elif "rules" not in (stored.config.get("sampler") or {}):
        sampler = sampler.model_copy(update={"rules": FIRST_RULES})
    scheduler = scheduler.model_copy(update={"name": chosen or scheduler.name})
    if scheduler.name == _NOT_REPLAYED and not problems:
        message = f"'{_NOT_REPLAYED}' changes settings while it trains, which no recorded curve can show"
        problems.append(Problem("--strategy", f"{message}. Name another trial scheduler, such as {sampler.name}+asha"))
    problems += [
        Problem(f"--{name}", f"got {given}; must be at least 1")
        for name, given in (("lanes", lanes), ("seeds", seeds))
        if given is not None and given < 1
    ]
    if problems:
        raise ConfigError(problems)
    search = _DOMAINS.validate_python(stored.config.get("search") or {})
    if found := list(sampler_problems(sampler, search, objectives=objectives)):
        raise ConfigError(found)
    return sampler, scheduler


def _first_seeds(stored: StoredSweep) -> list[TrialRecord]:
    """Return the trials that train a configuration with its first seed: another strategy proposes no repeats."""
    return [record for record in stored.result.records if not record.is_repeat]


def _usable(stored: StoredSweep) -> tuple[list[TrialRecord], int]:
    """Return the trials that can be proposed, and the number of the others; of equal ones the longest is kept."""
    space, firsts = _space(stored), _first_seeds(stored)
    usable: dict[str, TrialRecord] = {}
    for record in firsts:
        if record.reports and not space.strays(record.params):
            key = repr(sorted(record.params.items()))
            if key not in usable or usable[key].epochs < record.epochs:
                usable[key] = record
    if not usable:
        raise ConfigError([Problem(f"sweep '{stored.name}'", "no trial has reported yet; there is no curve to replay")])
    found = sorted(usable.values(), key=lambda record: record.number)
    return found, len(firsts) - len(found)


def _space(stored: StoredSweep) -> SearchSpace:
    return SearchSpace(_DOMAINS.validate_python(stored.config.get("search") or {}))


def _table(stored: StoredSweep, usable: Sequence[TrialRecord]) -> ListedCurves:
    seconds = _epoch_seconds(stored)
    objectives = stored.result.objectives
    assert objectives is not None, "a stored sweep has its objectives"
    curves = [_curve(record, objectives, seconds.get(record.number, {})) for record in usable]
    longest = max(int(record.config["training"]["epochs"]) for record in usable)
    return ListedCurves(_space(stored), [record.params for record in usable], curves, longest)


def _curve(record: TrialRecord, objectives: Objectives, seconds: Mapping[int, float]) -> Curve:
    """Return the curve of a trial; an epoch that was not evaluated has the values of the one before."""
    reports = {int(report["epoch"]): report for report in record.reports}
    known = statistics.median(seconds.values()) if seconds else record.cost.held_s / max(record.epochs, 1)
    report = record.reports[0]
    scores, durations = [], []
    for epoch in range(1, record.epochs + 1):
        report = reports.get(epoch, report)
        values = [(objective, report.get(objective.metric, math.nan)) for objective in objectives.configs]
        scores.append(tuple(value if objective.mode == "max" else -value for objective, value in values))
        durations.append(seconds.get(epoch, known))
    return Curve(
        scores,
        durations,
        is_cut=record.status not in _SETTLED,
        is_complete=record.status is TrialStatus.FINISHED,
    )


def _epoch_seconds(stored: StoredSweep) -> dict[int, dict[int, float]]:
    """Return the seconds of each epoch by trial, from the time for which the trial had held its lane."""
    found: dict[int, dict[int, float]] = {}
    held: dict[int, tuple[int, float]] = {}  # newest epoch, and seconds until then since the trial began or resumed
    for event, _ in read_events(SweepFolder(stored.folder).journal):
        match event:
            case TrialStarted() | TrialResumed():
                held[event.trial] = held.get(event.trial, (0, 0.0))[0], 0.0
            case TrialReported() if event.held_s is not None:
                epoch, before = held.get(event.trial, (0, 0.0))
                if event.epoch > epoch and event.held_s > before:
                    each = (event.held_s - before) / (event.epoch - epoch)
                    found.setdefault(event.trial, {}).update(dict.fromkeys(range(epoch + 1, event.epoch + 1), each))
                held[event.trial] = event.epoch, event.held_s
    return found


def _allocator(scheduler: TrialSchedulerConfig, setting: AllocationSetting) -> Allocator:
    if scheduler.name in ALLOCATORS:
        return ALLOCATORS[scheduler.name](setting)
    from orchestrator.search.simulation.tune_rules import create_stopping_rule  # imports Ray, which takes seconds

    return create_stopping_rule(scheduler, setting)


def _recorded(stored: StoredSweep) -> Outcome:
    """Return what the first seeds of the sweep itself found in any epoch, within constraints or not, at what cost."""
    firsts = _first_seeds(stored)
    metric, mode = stored.result.metric, stored.result.mode
    choose = max if mode == "max" else min
    values = {record.number: value for record in firsts if (value := record.best(metric, mode)) is not None}
    trial = choose(values, key=lambda number: values[number]) if values else None
    return Outcome(
        best=None if trial is None else values[trial],
        trial=trial,
        epochs=sum(record.epochs for record in firsts),
        lane_s=sum(record.cost.held_s for record in firsts),
        wall_s=stored.result.so_far.wall_s if len(firsts) == len(stored.result.records) else None,
    )


def _summary(seed: int, trace: Trace, recorded: Outcome, usable: Sequence[TrialRecord], mode: str) -> ReplayedSweep:
    sign = 1.0 if mode == "max" else -1.0
    target = math.inf if recorded.best is None else sign * recorded.best
    epochs, wall_s = trace.epochs_to(target), trace.seconds_to(target)
    best = trace.best_trial
    trial = None if best is None else next(one.number for one in usable if one.params == trace.params[best])
    return ReplayedSweep(
        seed=seed,
        found=Outcome(
            best=sign * trace.best if math.isfinite(trace.best) else None,
            trial=trial,
            epochs=trace.epochs,
            lane_s=trace.lanes * trace.seconds - trace.idle_s,
            wall_s=trace.seconds,
        ),
        epochs_to_recorded_best=int(epochs) if math.isfinite(epochs) else None,
        wall_s_to_recorded_best=wall_s if math.isfinite(wall_s) else None,
        trials=trace.counts(),
        cut=len(trace.cut),
        continuations=trace.continuations,
    )
