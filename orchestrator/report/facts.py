"""Texts and tables of a report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.config.recipe import Recipe, load_recipe
from orchestrator.config.recipes import list_recipes
from orchestrator.config.sections.budget import BudgetConfig
from orchestrator.records.budget import Budget, LimitUsage, as_duration
from orchestrator.records.ledger import TrialRecord, TrialStatus
from orchestrator.report.trial_rows import CostUnit, number
from orchestrator.results.stored_sweep import StoredSweep, SweepState

_MOST_NUMBERS = 12
_STATES = {
    SweepState.DEAD: "its driver died",
    SweepState.INTERRUPTED: "interrupted",
    SweepState.RUNNING: "still running",
    SweepState.FAILED: "failed",
    SweepState.FINISHED: "finished",
}


@dataclass(frozen=True)
class Failure:
    """Trials that failed, diverged or were interrupted for the same reason.

    Args:
        kind: `failed`, `diverged` or `interrupted`.
        reason: First line of the reason.
        trials: Numbers of the trials, as text.
        count: Number of trials.
        detail: Whole reason of the first trial; empty when it is one line.
    """

    kind: str
    reason: str
    trials: str
    count: int
    detail: str


def question(sweep: StoredSweep) -> str:
    """Return the question that the sweep answers, as a sentence."""
    config, objectives = sweep.config, sweep.result.objectives
    assert objectives is not None
    wanted = " and ".join(
        f"{'highest' if objective.mode == 'max' else 'lowest'} {objective.metric}" for objective in objectives.configs
    )
    search = config.get("search") or {}
    choices = (search.get("model") or {}).get("choices")
    network = f"{len(choices)} networks" if choices else (config.get("model") or {}).get("name", "one network")
    names = [name for name, domain in search.items() if name != "model" and "value" not in domain]
    searched = f"{len(names)} searched setting{'s' if len(names) > 1 else ''}"
    over = f"{network} and {searched}" if names else network
    bounds = f", with {' and '.join(objectives.constraints)}" if objectives.constraints else ""
    return f"Which configuration of {over} reaches the {wanted} on {dataset_name(config)}{bounds}?"


def dataset_name(config: Mapping[str, Any]) -> str:
    """Return the name of the dataset, or the last part of its path."""
    dataset = config.get("dataset") or {}
    uri = dataset.get("uri")
    return str(uri).rstrip("/").rpartition("/")[2] if uri else str(dataset.get("name"))


def state(sweep: StoredSweep) -> str:
    """Return the state of the sweep as text."""
    by = f", {sweep.result.ended_by}" if sweep.result.ended_by else ""
    return f"{_STATES[sweep.state]}{by}"


def tiles(sweep: StoredSweep) -> list[tuple[str, str, str]]:
    """Return the figures at the top of the page: name, figure and remark."""
    result, totals = sweep.result, sweep.result.so_far
    best = result.best
    counts = Counter(record.status for record in result.records)
    found = []
    if best is not None and best.value is not None:
        found.append((f"best {result.metric}", number(best.value), f"trial {best.number}"))
        primary = result.task.primary
        if primary.name in best.test:
            tested = primary.text(best.test[primary.name])
            found.append((f"its test {primary.in_words}", tested, remark_on_test(sweep.config)))
    ended = ", ".join(f"{counts[status]} {status.in_words}" for status in TrialStatus if counts[status])
    found.append(("trials", str(len(result.records)), ended or "none was begun"))
    found.append(("time by the clock", as_duration(totals.wall_s), f"{_epochs(result.records)} epochs trained"))
    unit = CostUnit.fit_for(totals.cost)
    found.append((f"{unit.name} reserved", unit.of(totals.cost), _price(totals.cost.price)))
    return found


def remark_on_test(config: Mapping[str, Any]) -> str:
    """Return the remark beside a metric on the test images."""
    chosen_on_them = (config.get("dataset") or {}).get("select_on") == "test"
    return "chosen on these images, so too good" if chosen_on_them else "of the best epoch's weights"


def settings(sweep: StoredSweep) -> list[tuple[str, str]]:
    """Return the settings and versions that repeat the sweep, by name."""
    config, result = sweep.config, sweep.result
    assert result.objectives is not None
    scheduler, sampler = config.get("trial_scheduler") or {}, config.get("sampler") or {}
    training, resources = config.get("training") or {}, config.get("resources") or {}
    rows = [
        ("objective", ", ".join(f"{objective.metric} ({objective.mode})" for objective in result.objectives.configs)),
        ("constraints", ", ".join(result.objectives.constraints)),
        ("images", dataset_name(config)),
        ("trials wanted", str(config.get("trials"))),
        ("epochs", str(training.get("epochs"))),
        ("steps of an epoch", str(training.get("epoch_steps") or "")),
        ("global batch size", str(training.get("global_batch_size"))),
        ("sampler", str(sampler.get("name"))),
        ("trial scheduler", str(scheduler.get("name"))),
        ("workers", "-".join(map(str, _listed(resources.get("workers"))))),
        ("seed", str(config.get("seed"))),
    ]
    rows += [(name.removeprefix("version."), text) for name, text in sweep.facts.items()]
    rows += [("recorded in", result.tracking_uri), ("folder", str(sweep.folder))]
    return [(name, text) for name, text in rows if text]


def space_rows(config: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return the searched names with their domains and conditions."""
    rows = []
    for name, domain in (config.get("search") or {}).items():
        when = " and ".join(f"{key} is {_one_of(value)}" for key, value in (domain.get("when") or {}).items())
        rows.append((name, _domain(domain), when))
    return rows


def failures(sweep: StoredSweep) -> list[Failure]:
    """Group the trials that failed, diverged or were interrupted by reason, the most frequent first."""
    groups: dict[tuple[str, str], list[TrialRecord]] = {}
    for record in sweep.result.records:
        if record.status in (TrialStatus.FAILED, TrialStatus.DIVERGED, TrialStatus.INTERRUPTED):
            first = next(iter(record.reason.splitlines()), "no reason was given")
            groups.setdefault((str(record.status), first), []).append(record)
    return [
        Failure(
            kind=kind,
            reason=reason,
            trials=_numbers([record.number for record in records]),
            count=len(records),
            detail=records[0].reason if "\n" in records[0].reason.strip() else "",
        )
        for (kind, reason), records in sorted(groups.items(), key=lambda item: -len(item[1]))
    ]


def meters(sweep: StoredSweep) -> list[LimitUsage]:
    """Return the used part of each limit, including the number of trials."""
    result, wanted = sweep.result, int(sweep.config["trials"])
    assert result.objectives is not None
    over = sum(record.is_over and not record.is_repeat for record in result.records)
    budget = Budget(BudgetConfig.model_validate(sweep.config.get("budget") or {}), result.objectives.configs[0])
    return [LimitUsage("trials", str(over), str(wanted), over / wanted), *budget.usage(result.so_far)]


def recipe_of(sweep: StoredSweep) -> Recipe | None:
    """Return the published recipe that the sweep ran; None without one."""
    name = sweep.config.get("recipe")
    return load_recipe(name) if name in list_recipes() else None


def epochs_in_words(training: Mapping[str, Any]) -> str:
    """Return the length of a training, such as `10 epochs of 4,000 steps`.

    Args:
        training: Section `training`.
    """
    steps = training.get("epoch_steps")
    return f"{training['epochs']} epochs" + (f" of {steps:,} steps" if steps else "")


def _domain(domain: Mapping[str, Any]) -> str:
    if "choices" in domain:
        return ", ".join(map(str, domain["choices"]))
    if "value" in domain:
        return f"always {domain['value']}"
    scale = ", logarithmic" if domain.get("log") else ""
    step = f", in steps of {domain['step']:g}" if domain.get("step") not in (None, 1) else ""
    return f"{domain['low']:g} to {domain['high']:g}{scale}{step}"


def _one_of(value: Any) -> str:
    return " or ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _numbers(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:_MOST_NUMBERS]))
    return shown if len(numbers) <= _MOST_NUMBERS else f"{shown} and {len(numbers) - _MOST_NUMBERS} more"


def _epochs(records: Sequence[TrialRecord]) -> int:
    return sum(record.epochs for record in records)


def _price(price: float | None) -> str:
    return "by all trials" if price is None else f"price {price:,.2f}"
