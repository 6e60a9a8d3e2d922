"""Arms of a comparison: the choices of a setting, each with its configurations, seeds, values and cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.config.sections.dataset import DatasetConfig
from orchestrator.config.sections.objective import natural_mode
from orchestrator.config.tasks.networks import facts_of_images, network_cost
from orchestrator.config.tasks.registry import DEFAULT_TASK
from orchestrator.errors import ConfigError, DataError, Problem, did_you_mean
from orchestrator.records.status import TrialStatus
from orchestrator.records.trials import TrialRecord
from orchestrator.results.stored_sweep import StoredSweep
from orchestrator.seeds.configurations import Configuration, configurations
from orchestrator.verdicts.statistics import Unit
from search_spaces import setting_of

MOST_ARMS = 12
_FEWEST = 2


@dataclass(frozen=True)
class Metric:
    """Metric that arms are compared by.

    Args:
        name: Name of the metric.
        mode: `max` or `min`.
    """

    name: str
    mode: str

    def value(self, record: TrialRecord) -> float | None:
        """Return the best value of a trial, larger is better; minus infinity where it diverged, None without any."""
        if record.status is TrialStatus.DIVERGED:
            return -math.inf
        found = record.best(self.name, self.mode)
        return found if found is None or self.mode == "max" else -found


@dataclass(frozen=True)
class Arm:
    """Choice that is compared with others.

    Args:
        name: Value of the setting, as text.
        configurations: Number of configurations begun.
        epochs: Epochs of all its trials.
        seeds: Largest number of seeds of one of its configurations.
        device_s: Seconds of devices reserved: GPUs where there are any, else CPUs.
        stopped_early: Number of configurations that were not trained to the end.
        diverged: Number of configurations that diverged, which count as worse than all others.
        best: Number of the trial of its best configuration with the first seed; None without a value.
        params: Parameters of that network; None where they cannot be counted.
        macs: Multiply-accumulates of that network for one image; None likewise.
        values: Values of its configurations with the first seed; larger is better.
        fresh: Values of its best configuration with the other seeds; larger is better.
    """

    name: str
    configurations: int
    epochs: int
    seeds: int
    device_s: float
    stopped_early: int
    diverged: int
    best: int | None
    params: int | None
    macs: int | None
    values: tuple[float, ...]
    fresh: tuple[float, ...]

    def sample(self, unit: Unit) -> tuple[float, ...]:
        """Return the values that are compared; larger is better."""
        return self.fresh if unit is Unit.SEEDS else self.values


def metric_of(sweep: StoredSweep, name: str | None) -> Metric:
    """Return the metric to compare by.

    Args:
        sweep: Stored sweep.
        name: Name of a reported metric; None takes the first objective of the sweep.

    Raises:
        ConfigError: No trial has reported the metric.
    """
    result = sweep.result
    if name is None or name == result.metric:
        return Metric(result.metric, result.mode)
    known = sorted({key for record in result.records for report in record.reports for key in report} - {"epoch"})
    if name not in known:
        reason = f"no trial of {sweep.name} has reported '{name}'. {did_you_mean(name, known)}"
        raise ConfigError([Problem("--objective", reason.rstrip())])
    natural = "min" if name.endswith("loss") or name.startswith("cost/") else "max"
    return Metric(name, natural_mode(name) or natural)


def compared_name(sweep: StoredSweep, by: str | None) -> str:
    """Return the setting whose choices are compared: the one given, that of the tournament, or the network.

    Args:
        sweep: Stored sweep.
        by: Searched name, or name of a setting or an option; None for the default.

    Raises:
        ConfigError: The setting has fewer than two values, or so many that they are no choices.
    """
    name = by or sweep.config.get("tournament") or "model"
    values = {_arm_of(record, name) for record in sweep.result.records} - {None}
    if 2 <= len(values) <= MOST_ARMS:
        return str(name)
    searched = list(sweep.config.get("search") or {})
    where = "--by" if by else "verdict"
    if not sweep.result.records:
        text = f"sweep '{sweep.name}' has no trial yet; there is nothing to compare"
    elif not values:
        text = f"no trial has '{name}'. {did_you_mean(name, ['model', *searched])}"
    elif len(values) == 1:
        text = f"all trials have {name} {next(iter(values))}. Name a setting that varies, such as {_some(searched)}"
    else:
        text = f"'{name}' has {len(values)} values; at most {MOST_ARMS} are compared. Name one with few choices"
    raise ConfigError([Problem(where, text.rstrip())])


def collect_arms(sweep: StoredSweep, name: str, metric: Metric) -> list[Arm]:
    """Return the arms, in the order of their first trials.

    Args:
        sweep: Stored sweep.
        name: Setting whose choices are compared.
        metric: Metric to compare by.

    Raises:
        ConfigError: An arm has fewer than two values.
    """
    objectives = sweep.result.objectives
    assert objectives is not None
    by_arm: dict[str, list[Configuration]] = {}
    for each in configurations(sweep.result.records, objectives):
        arm = _arm_of(each.first, name)
        if arm is not None:
            by_arm.setdefault(arm, []).append(each)
    arms = [_arm(arm, found, metric, sweep.config) for arm, found in by_arm.items()]
    short = [arm for arm in arms if len(arm.values) < _FEWEST]
    if short:
        listed = ", ".join(f"{arm.name} ({len(arm.values)})" for arm in short)
        rule = f"each needs at least {_FEWEST} configurations with a value of {metric.name}"
        raise ConfigError([Problem("verdict", f"too few trials of {listed}; {rule}. Train more, or compare by others")])
    return arms


def chosen_unit(arms: Sequence[Arm]) -> Unit:
    """Return what the samples consist of: seeds, if every arm has at least two beside the first, else configurations.

    The first seed has chosen the best configuration of an arm, so that its value is too good; it is left out.

    Args:
        arms: Arms to compare.
    """
    return Unit.SEEDS if all(len(arm.fresh) >= _FEWEST for arm in arms) else Unit.CONFIGURATIONS


def _arm(name: str, found: Sequence[Configuration], metric: Metric, config: Mapping[str, Any]) -> Arm:
    trials = [trial for each in found for trial in each.trials]
    scored = [(value, each) for each in found if (value := metric.value(each.first)) is not None and _counts(each)]
    best = _representative(scored)
    cost = [trial.cost.gpu_s or trial.cost.cpu_s for trial in trials]
    size = (None, None) if best is None else _size(best.first, config)
    fresh = () if best is None else tuple(_fresh(best, metric))
    return Arm(
        name=name,
        configurations=len(found),
        epochs=sum(trial.epochs for trial in trials),
        seeds=max(len(each.trials) for each in found),
        device_s=math.fsum(cost),
        stopped_early=sum(_is_short(each.first) for each in found),
        diverged=sum(each.first.status is TrialStatus.DIVERGED for each in found),
        best=None if best is None else best.number,
        params=size[0],
        macs=size[1],
        values=tuple(value for value, _ in scored),
        fresh=fresh,
    )


def _counts(each: Configuration) -> bool:
    """Return whether a configuration is a result: one that runs, was interrupted or lost its machine is not."""
    unfinished = (TrialStatus.RUNNING, TrialStatus.INTERRUPTED, TrialStatus.FAILED)
    return each.first.status not in unfinished and each.objectives.is_feasible(each.first)


def _is_short(record: TrialRecord) -> bool:
    return record.status in (TrialStatus.PRUNED, TrialStatus.PAUSED)


def _representative(scored: Sequence[tuple[float, Configuration]]) -> Configuration | None:
    """Return the best configuration by the first seed among those with the most seeds."""
    finite = [(len(each.finished), value, -each.number, each) for value, each in scored if math.isfinite(value)]
    return max(finite, key=lambda row: row[:3])[3] if finite else None


def _fresh(best: Configuration, metric: Metric) -> list[float]:
    """Return the values of the repeats that have ended, without those whose machine failed."""
    ended = [trial for trial in best.repeats if trial.status in (TrialStatus.FINISHED, TrialStatus.DIVERGED)]
    return [value for trial in ended if (value := metric.value(trial)) is not None]


def _arm_of(record: TrialRecord, name: str) -> str | None:
    """Return the value of a setting in a trial, as text; None where it has none."""
    if name in record.params:
        return str(record.params[name])
    searched = {setting_of(key): value for key, value in record.params.items()}
    model = record.config.get("model") or {}
    written = {**(record.config.get("training") or {}), **(model.get("options") or {}), "model": model.get("name")}
    found = searched.get(name, written.get(name))
    return None if found is None else str(found)


def _size(record: TrialRecord, config: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Return parameters and multiply-accumulates of a network; None where it or the dataset is not at hand."""
    import models

    report = record.reports[-1] if record.reports else {}
    if "params" in report and "macs" in report:
        return int(report["params"]), int(report["macs"])
    model, dataset = record.config["model"], DatasetConfig.model_validate(config["dataset"])
    is_remote = dataset.uri is not None and "://" in dataset.uri
    if is_remote or models.split_reference(model["name"]) is not None:
        return None, None  # no server is contacted, and no code of a file is run
    try:
        task = config.get("task", DEFAULT_TASK)
        facts = facts_of_images(dataset, task)
        shape = {"num_classes": facts.num_classes, "in_chans": facts.in_chans, "image_size": facts.image_size}
        cost = network_cost(task, model["name"], model["options"], **shape)
    except (DataError, models.ModelOptionError):
        return None, None
    return cost.params, cost.macs


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) or "an option"
