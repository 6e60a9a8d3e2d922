"""Expansion of `strategy` into the names of the sampler and of the trial scheduler.

The setting has its name because the section `search` holds the searched domains. The choice of `auto` follows the
measurements in benchmarks/results/search/search_quality.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, get_args

from orchestrator.config.sections.study import SamplerName, TrialSchedulerConfig, TrialSchedulerName
from orchestrator.config.sections.training import TrainingConfig
from orchestrator.errors import Problem, did_you_mean

AUTO = "auto"
_SECTIONS = ("sampler", "trial_scheduler")


@dataclass(frozen=True)
class StrategyUse:
    """Record of how a strategy was applied; excluded from comparisons, since the names are written out.

    Args:
        name: Strategy; empty where the sweep names none.
        reason: Reason of the choice of a trial scheduler; empty where the strategy names it.
    """

    name: str = field(default="", compare=False)
    reason: str = field(default="", compare=False)


class WithStrategy(NamedTuple):
    """Settings of a sweep with its strategy written out.

    Args:
        settings: Settings, without `strategy`.
        problems: Problems of the strategy.
        use: Record of how the strategy was applied.
    """

    settings: dict[str, Any]
    problems: list[Problem]
    use: StrategyUse = StrategyUse()


class Names(NamedTuple):
    """Names of a strategy; None where it leaves one open."""

    sampler: str | None
    trial_scheduler: str | None


def expand_strategy(raw: Mapping[str, Any]) -> WithStrategy:
    """Replace `strategy` by `sampler.name` and `trial_scheduler.name`.

    Args:
        raw: Settings of a sweep, as written.
    """
    settings = {key: value for key, value in raw.items() if key != "strategy"}
    given = raw.get("strategy")
    if given is None:
        return WithStrategy(settings, [])
    if not isinstance(given, str):
        return WithStrategy(settings, [Problem("strategy", f"got {given!r}; is a text such as auto or tpe+asha")])
    names, problems = parse_strategy(given, "strategy")
    reason = ""
    if given == AUTO:
        scheduler, reason = _choose_scheduler(raw)
        names = Names(AUTO, scheduler)
    for section, name in zip(_SECTIONS, names, strict=True):
        written = raw.get(section) or {}
        if name is None or not isinstance(written, Mapping):
            continue
        if "name" in written:
            problems.append(Problem(f"{section}.name", f"is chosen by strategy: {given}. Leave one of the two out"))
        settings[section] = {**written, "name": name}
    return WithStrategy(settings, problems, StrategyUse(given, reason))


def parse_strategy(text: str, where: str) -> tuple[Names, list[Problem]]:
    """Return the names in a text such as `tpe`, `asha` or `tpe+asha`, and its problems.

    Args:
        text: Name of a sampler or of a trial scheduler, or both with a plus sign between; `auto` chooses both.
        where: Setting or option that holds the text.
    """
    if text == AUTO:
        return Names(AUTO, None), []
    samplers, schedulers = get_args(SamplerName), get_args(TrialSchedulerName)
    found: dict[str, str] = {}
    problems = []
    for name in text.split("+"):
        kind = "sampler" if name in samplers else "trial_scheduler"
        if name not in samplers and name not in schedulers:
            remedy = did_you_mean(name, [*samplers, *schedulers])
            problems.append(Problem(where, f"got '{name}'; is no sampler and no trial scheduler. {remedy}"))
        elif kind in found:
            what = kind.replace("_", " ")
            problems.append(Problem(where, f"got '{text}'; names one {what} at most. Drop {found[kind]} or {name}"))
        found.setdefault(kind, name)
    return Names(found.get("sampler"), found.get("trial_scheduler")), problems


def choose_scheduler(*, epochs: int, grace_epochs: int, objectives: int) -> tuple[str, str]:
    """Return the trial scheduler of `strategy: auto`, and the reason.

    Args:
        epochs: Epochs of the longest trial.
        grace_epochs: Epochs that every trial gets.
        objectives: Number of objectives.
    """
    if epochs <= grace_epochs:
        return "none", f"trials of {epochs} epochs are not worth pausing"
    if objectives > 1:
        return "asha", f"{objectives} objectives, which it orders by non-dominated rank"
    return "freeze_thaw", f"one objective and {epochs} epochs, which it gives to the trials that promise most"


def _choose_scheduler(raw: Mapping[str, Any]) -> tuple[str, str]:
    """Choose from settings as written, as far as they can be understood; faults in them are reported elsewhere."""
    objective, searched = raw.get("objective"), raw.get("search")
    epochs = _whole(raw, "training", "epochs", TrainingConfig().epochs)
    if isinstance(searched, Mapping) and "epochs" in searched:
        epochs = max([epochs, *_numbers(searched["epochs"])])
    return choose_scheduler(
        epochs=epochs,
        grace_epochs=_whole(raw, "trial_scheduler", "grace_epochs", TrialSchedulerConfig().grace_epochs),
        objectives=len(objective) if isinstance(objective, list | tuple) else 1,
    )


def _whole(raw: Mapping[str, Any], section: str, name: str, usual: int) -> int:
    written = raw.get(section)
    value = written.get(name, usual) if isinstance(written, Mapping) else usual
    return value if isinstance(value, int) else usual


def _numbers(domain: Any) -> Iterator[int]:
    """Yield the whole numbers in a domain, as written or as an object."""
    written = domain if isinstance(domain, Mapping | list | tuple) else vars(domain) if hasattr(domain, "when") else {}
    for value in written.values() if isinstance(written, Mapping) else written:
        if isinstance(value, int):
            yield value
        elif isinstance(value, list | tuple):
            yield from (each for each in value if isinstance(each, int))
