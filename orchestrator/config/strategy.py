"""Expansion of `strategy` into the names of the sampler and of the trial scheduler.

The setting has its name because the section `search` holds the searched domains. A name that neither it nor its section
gives is chosen, as with `auto`. The choice follows the measurements in benchmarks/results/search/search_quality.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, get_args

from orchestrator.config.sections.study import SamplerName, TrialSchedulerConfig, TrialSchedulerName
from orchestrator.config.sections.training import TrainingConfig
from orchestrator.errors import Problem, did_you_mean

AUTO = "auto"
_WITH_OPTIONS = "tpe"  # sampler whose options a section without a name gives
_SECTIONS, _KINDS = ("sampler", "trial_scheduler"), (SamplerName, TrialSchedulerName)


@dataclass(frozen=True)
class StrategyUse:
    """Record of how a strategy was applied; excluded from comparisons, since the names are written out.

    Args:
        chosen: Sections whose name was chosen: `sampler`, `trial_scheduler`.
        reason: Reason of the choice of a trial scheduler; empty where the sweep names it.
    """

    chosen: frozenset[str] = field(default=frozenset(), compare=False)
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
    """Replace `strategy` by `sampler.name` and `trial_scheduler.name`, and choose the names that are not given.

    Args:
        raw: Settings of a sweep, as written.
    """
    settings = {key: value for key, value in raw.items() if key != "strategy"}
    given = AUTO if raw.get("strategy") is None else raw["strategy"]
    if not isinstance(given, str):
        return WithStrategy(settings, [Problem("strategy", f"got {given!r}; is a text such as auto or tpe+asha")])
    names, problems = parse_strategy(given, "strategy")
    chosen, reason = set(), ""
    for section, name in zip(_SECTIONS, names, strict=True):
        written = {} if raw.get(section) is None else raw[section]
        if not isinstance(written, Mapping):
            continue  # a fault that the check of the sections reports
        own = written.get("name", AUTO)
        if name is not None and own != AUTO:
            problems.append(Problem(f"{section}.name", f"is chosen by strategy: {given}. Leave one of the two out"))
        if section == "sampler" and "name" not in written and written.get("options"):
            own = _WITH_OPTIONS
        used = name or own
        if used == AUTO:
            chosen.add(section)
            if section == "trial_scheduler":
                used, reason = _choose_scheduler(raw)
        settings[section] = {**written, "name": used}
    return WithStrategy(settings, problems, StrategyUse(frozenset(chosen), reason))


def parse_strategy(text: str, where: str) -> tuple[Names, list[Problem]]:
    """Return the names in a text such as `tpe`, `asha` or `tpe+asha`, and its problems.

    Args:
        text: Name of a sampler or of a trial scheduler, or both with a plus sign between; `auto` leaves both open.
        where: Setting or option that holds the text.
    """
    if text == AUTO:
        return Names(None, None), []
    samplers, schedulers = [[name for name in get_args(kind) if name != AUTO] for kind in _KINDS]
    found: dict[str, str] = {}
    problems = []
    for name in text.split("+"):
        kind = "sampler" if name in samplers else "trial_scheduler"
        if name not in samplers and name not in schedulers:
            remedy = did_you_mean(name, [*samplers, *schedulers])
            problems.append(Problem(where, f"got '{name or text}'; is no sampler and no trial scheduler. {remedy}"))
            continue
        if kind in found:
            what = kind.replace("_", " ")
            problems.append(Problem(where, f"got '{text}'; names one {what} at most. Drop {found[kind]} or {name}"))
        found.setdefault(kind, name)
    return Names(found.get("sampler"), found.get("trial_scheduler")), list(dict.fromkeys(problems))


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
    if raw.get("tournament") is not None:
        return "none", "a tournament trains every configuration to the end"
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
