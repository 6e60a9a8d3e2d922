"""What a report says in words and tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.config.recipe import Recipe, load_recipe
from orchestrator.config.recipes import list_recipes
from orchestrator.config.sections.budget import BudgetConfig
from orchestrator.records.budget import Budget, Usage, as_duration
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
    """Trials that ended badly for the same reason.

    Args:
        kind: `failed`, `diverged` or `interrupted`.
        reason: Its first line.
        trials: Their numbers, as text.
        count: How many.
        detail: The whole reason of the first one; empty where that is one line.
    """

    kind: str
    reason: str
    trials: str
    count: int
    detail: str


def question(sweep: StoredSweep) -> str:
    """What the sweep asks, in a sentence."""
    config, aims = sweep.config, sweep.result.aims
    assert aims is not None
    wanted = " and ".join(f"{'highest' if aim.mode == 'max' else 'lowest'} {aim.metric}" for aim in aims.objectives)
    search = config.get("search") or {}
    choices = (search.get("model") or {}).get("choices")
    network = f"{len(choices)} networks" if choices else (config.get("model") or {}).get("name", "one network")
    names = [name for name, domain in search.items() if name != "model" and "value" not in domain]
    searched = f"{len(names)} searched setting{'s' if len(names) > 1 else ''}"
    over = f"{network} and {searched}" if names else network
    bounds = f", with {' and '.join(aims.constraints)}" if aims.constraints else ""
    return f"Which configuration of {over} reaches the {wanted} on {dataset_name(config)}{bounds}?"


def dataset_name(config: Mapping[str, Any]) -> str:
    """Of the images, as a reader knows them."""
    dataset = config.get("dataset") or {}
    uri = dataset.get("uri")
    return str(uri).rstrip("/").rpartition("/")[2] if uri else str(dataset.get("name"))


def state(sweep: StoredSweep) -> str:
    """How the sweep stands, in words."""
    by = f", {sweep.result.ended_by}" if sweep.result.ended_by else ""
    return f"{_STATES[sweep.state]}{by}"


def tiles(sweep: StoredSweep) -> list[tuple[str, str, str]]:
    """The figures at the top: a name, the figure, a word beside it."""
    result, so_far = sweep.result, sweep.result.so_far
    best = result.best
    counts = Counter(record.status for record in result.records)
    found = []
    if best is not None and best.value is not None:
        found.append((f"best {result.metric}", number(best.value), f"trial {best.number}"))
        if best.test_top1 is not None:
            found.append(("its test accuracy", f"{best.test_top1:.2%}", remark_on_test(sweep.config)))
    ended = ", ".join(f"{counts[status]} {status.in_words}" for status in TrialStatus if counts[status])
    found.append(("trials", str(len(result.records)), ended or "none was begun"))
    found.append(("time by the clock", as_duration(so_far.wall_s), f"{_epochs(result.records)} epochs trained"))
    unit = CostUnit.fit_for(so_far.cost)
    found.append((f"{unit.name} reserved", unit.of(so_far.cost), _price(so_far.cost.price)))
    return found


def remark_on_test(config: Mapping[str, Any]) -> str:
    """What to know of an accuracy on the test images."""
    chosen_on_them = (config.get("dataset") or {}).get("select_on") == "test"
    return "chosen on these images, so too good" if chosen_on_them else "of the best epoch's weights"


def settings(sweep: StoredSweep) -> list[tuple[str, str]]:
    """What the sweep was told, and what repeats it."""
    config, result = sweep.config, sweep.result
    assert result.aims is not None
    scheduler, sampler = config.get("trial_scheduler") or {}, config.get("sampler") or {}
    training, resources = config.get("training") or {}, config.get("resources") or {}
    rows = [
        ("objective", ", ".join(f"{aim.metric} ({aim.mode})" for aim in result.aims.objectives)),
        ("constraints", ", ".join(result.aims.constraints)),
        ("images", dataset_name(config)),
        ("trials wanted", str(config.get("trials"))),
        ("epochs", str(training.get("epochs"))),
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
    """The searched names, what each may be, and when."""
    rows = []
    for name, domain in (config.get("search") or {}).items():
        when = " and ".join(f"{key} is {_one_of(value)}" for key, value in (domain.get("when") or {}).items())
        rows.append((name, _domain(domain), when))
    return rows


def failures(sweep: StoredSweep) -> list[Failure]:
    """Trials that ended badly, by reason, the commonest first."""
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


def meters(sweep: StoredSweep) -> list[Usage]:
    """How much of each limit is used; the number of trials is one."""
    result, wanted = sweep.result, int(sweep.config["trials"])
    assert result.aims is not None
    over = sum(record.is_over for record in result.records)
    budget = Budget(BudgetConfig.model_validate(sweep.config.get("budget") or {}), result.aims.objectives[0])
    return [Usage("trials", str(over), str(wanted), over / wanted), *budget.usage(result.so_far)]


def recipe_of(sweep: StoredSweep) -> Recipe | None:
    """The published set-up the sweep ran, where it did."""
    name = sweep.config.get("recipe")
    return load_recipe(name) if name in list_recipes() else None


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
