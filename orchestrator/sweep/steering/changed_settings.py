"""Settings that may change while a sweep runs: number of trials, limits of the budget, and domains of searched names.

The changed configuration is checked as a whole, as that of a new sweep. A narrowed choice makes names unreachable that
are searched beside its other values; they leave the space, and return when the choice is widened again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from orchestrator.config import SweepConfig
from orchestrator.config.fixed_settings import CHECKPOINT, fixed_settings, shown
from orchestrator.config.flat_names import flat_names
from orchestrator.config.load import load_sweep, overridden
from orchestrator.config.network_files import NetworkSource, network_files_from
from orchestrator.config.sections.first_trials import first_problems
from orchestrator.config.validation.training_rules import unused_accepted
from orchestrator.errors import ConfigError, Problem, did_you_mean
from search_spaces import Domain, SearchSpace, setting_of
from search_spaces.domains import as_tuple

_LIMITS = ("wall_clock", "cpu_hours", "gpu_hours", "epochs", "target", "patience")
_FREE = ("trials", *(f"budget.{limit}" for limit in _LIMITS))
_BOUNDS = {"float": ("low", "high"), "int": ("low", "high"), "choice": ("choices",), "constant": ()}
_SOURCE = "the running sweep"


@dataclass(frozen=True)
class ChangedSettings:
    """Configuration of a running sweep after a change.

    Args:
        config: Checked configuration.
        changes: Changed settings with their new values.
        dropped: Searched names that can no longer be drawn.
        restored: Searched names that can be drawn again.
    """

    config: SweepConfig
    changes: Mapping[str, Any]
    dropped: tuple[str, ...] = ()
    restored: tuple[str, ...] = ()

    @property
    def in_words(self) -> str:
        """Changed settings in words; names that left the space or came back are listed without their domains."""
        listed = tuple(f"search.{name}." for name in (*self.dropped, *self.restored))
        changes = [f"{name} is {shown(value)}" for name, value in self.changes.items() if not name.startswith(listed)]
        dropped = [f"no longer searched: {', '.join(self.dropped)}"] if self.dropped else []
        restored = [f"searched again: {', '.join(self.restored)}"] if self.restored else []
        return "; ".join([", ".join(changes), *dropped, *restored])


@unused_accepted()
def change_settings(
    config: SweepConfig, searched: Mapping[str, Any], assignments: Sequence[str], *, begun: int, sampler: str
) -> ChangedSettings:
    """Return the configuration of a running sweep with assignments applied.

    Args:
        config: Present configuration.
        searched: Domains of all searched names there ever were, as plain data, with their first conditions.
        assignments: Assignments such as `trials=40`, `budget.wall_clock=2h` or `search.lr.high=0.1`.
        begun: Number of trials that have begun, of which a changed number of trials cannot be below.
        sampler: Name of the sampler that proposes, which `auto` may have chosen.

    Raises:
        ConfigError: A setting cannot change while the sweep runs, or the changed configuration is not valid.
    """
    present = config.model_dump(mode="json")
    whole = {**present, "search": _complete_domains(present["search"], searched)}
    raw, problems = overridden(whole, assignments)
    problems = [Problem(problem.where.removeprefix("--set "), problem.message) for problem in problems]
    if not problems:
        problems = [problem for text in assignments for problem in _refusals(text, whole["search"], config, sampler)]
    if not problems:
        shifted = ((f"search.{name}.low", _shift(raw["search"][name], was)) for name, was in whole["search"].items())
        problems = [Problem(where, message) for where, message in shifted if message]
    if problems:
        raise ConfigError(problems, _SOURCE)
    domains = {name: _checked_domain(name, raw["search"][name], domain) for name, domain in whole["search"].items()}
    search = _reachable(domains)
    content = {**raw, "search": search}
    content["try_first"] = _still_drawn(config, search)
    with network_files_from(_only_known(config)) if config.network_files.sources else nullcontext():
        changed = load_sweep(content, label=_SOURCE)
    if changed.trials < begun:
        raise ConfigError(
            [Problem("trials", f"got {changed.trials}; {begun} have begun. Use {begun} or more")], _SOURCE
        )
    return ChangedSettings(
        changed,
        _differences(present, changed.model_dump(mode="json")),
        tuple(name for name in config.search if name not in changed.search),
        tuple(name for name in changed.search if name not in config.search),
    )


def _complete_domains(present: Mapping[str, Any], searched: Mapping[str, Any]) -> dict[str, Any]:
    """Return the present domains with the conditions they were first recorded with, and those out of reach."""
    conditions = {name: {"when": domain.get("when", {})} for name, domain in searched.items()}
    return {**searched, **{name: {**domain, **conditions.get(name, {})} for name, domain in present.items()}}


def _refusals(assignment: str, search: Mapping[str, Any], config: SweepConfig, sampler: str) -> list[Problem]:
    """Return why an assignment is none that a running sweep accepts; empty where it is."""
    key = assignment.partition("=")[0].strip()
    if key.startswith("search."):
        rule = _fixed_space(config, sampler) or _refused_domain(key.removeprefix("search."), search)
    elif key == "trials" and config.trial_scheduler.name == "pbt":
        rule = "the size of a population (trial_scheduler.name: pbt) is fixed while it runs"
    elif key in _FREE:
        rule = ""
    else:
        known = [*_FREE, *(f"search.{name}" for name in search)]
        rule = (
            "cannot change while the sweep runs; `spatialsweep resume NAME --set KEY=VALUE` can change more. "
            f"{did_you_mean(key, known)}"
        )
    return [Problem(key, rule)] if rule else []


def _fixed_space(config: SweepConfig, sampler: str) -> str:
    """Return why the space of a sweep cannot change; empty where it can."""
    if sampler == "grid":
        return "the points of a grid are fixed. Start another sweep for another grid"
    if config.trial_scheduler.name == "pbt":
        return "the space of a population (trial_scheduler.name: pbt) is fixed while it runs"
    return ""


def _refused_domain(path: str, search: Mapping[str, Any]) -> str:
    """Return why a domain, or a part of it, cannot be set; empty where it can.

    Args:
        path: Searched name, or the name and a key of its domain behind a dot.
        search: Domains of all searched names, as plain data.
    """
    name, key = (path, "") if path in search else (path.rpartition(".")[0], path.rpartition(".")[2])
    if name not in search:
        return f"is not searched, and stays as it is. {did_you_mean(name or path, list(search))}"
    bounds = _BOUNDS[search[name]["type"]]
    if not bounds:
        return "is fixed in search, and stays as it is"
    if key and key not in bounds:
        return f"only {' and '.join(bounds)} of {name} can change while the sweep runs"
    if not key and bounds != ("choices",):
        return f"name the bound: {' or '.join(f'search.{name}.{bound}' for bound in bounds)}"
    return ""


def _shift(content: Any, before: Mapping[str, Any]) -> str:
    """Return why the new low of a domain would shift its grid; empty where it does not.

    The union of the domains that a sweep has had, from which a lost study is rebuilt, has one step. Another high does
    not move the values below it.

    Args:
        content: Changed domain, which is not checked yet.
        before: Domain before the change, as plain data.
    """
    if before.get("step") is None or not isinstance(content, Mapping):
        return ""
    low, high = content.get("low"), content.get("high")
    if not (isinstance(low, int | float) and isinstance(high, int | float) and math.isfinite(low) and low <= high):
        return ""  # the checks of the configuration report it
    first, step = Fraction(str(before["low"])), Fraction(str(before["step"]))
    steps = (Fraction(str(low)) - first) / step
    if steps.denominator == 1:
        return ""
    kind = int if before["type"] == "int" else float
    lower, upper = (kind(first + index * step) for index in (math.floor(steps), math.ceil(steps)))
    rule = f"earlier trials lie on a grid of step {before['step']} from {before['low']}, which cannot shift"
    return f"got {low}; {rule}. Use {lower} or {upper}"


def _checked_domain(name: str, content: Any, before: Mapping[str, Any]) -> dict[str, Any]:
    """Return a changed domain with the keys that the change leaves out.

    Raises:
        ConfigError: A checkpoint is added, whose weights are read when a session starts, or the value is no domain.
    """
    changed = {**before, **(content if isinstance(content, Mapping) else {"choices": content})}
    choices = changed.get("choices")
    if "choices" in changed and not (isinstance(choices, list | tuple) and choices):
        message = "got no list of values. Use a list, such as [a, b]; one value is a list of one"
        raise ConfigError([Problem(f"search.{name}", message)], _SOURCE)
    if setting_of(name) == CHECKPOINT and (added := [each for each in choices or () if each not in before["choices"]]):
        message = f"got {added[0]!r}; weights are read when a session starts. Use `spatialsweep resume NAME --set`"
        raise ConfigError([Problem(f"search.{name}", message)], _SOURCE)
    return changed


def _reachable(domains: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the domains that can still be drawn, with conditions reduced to values that are still offered."""
    found: dict[str, Any] = {}
    left = dict(domains)
    while left:
        ready = [name for name, domain in left.items() if not domain["when"].keys() & left.keys()]
        if not ready:
            return {**found, **left}  # conditions in a circle are reported by the checks of the configuration
        for name in ready:
            domain = left.pop(name)
            when = {parent: _offered(found.get(parent), wanted) for parent, wanted in domain["when"].items()}
            if all(when.values()):
                found[name] = {**domain, "when": when}
    return {name: found[name] for name in domains if name in found}


def _offered(parent: Mapping[str, Any] | None, wanted: Any) -> Any:
    """Return the part of the wanted values that a choice offers; as it was written where that is all."""
    if parent is None:
        return ()
    values = parent.get("choices") or [parent.get("value")]
    kept = [value for value in as_tuple(wanted) if value in values]
    return wanted if len(kept) == len(as_tuple(wanted)) else kept


def _still_drawn(config: SweepConfig, search: Mapping[str, Any]) -> Any:
    """Return the configurations of `try_first` that the changed space can draw: the others were tried, or are void."""
    if isinstance(config.try_first, str):
        return config.try_first
    from pydantic import TypeAdapter

    domains: TypeAdapter[Any] = TypeAdapter(Mapping[str, Domain])
    try:
        space = SearchSpace(domains.validate_python(search))
    except ValueError:
        return config.try_first  # the checks of the configuration report it
    fixed = fixed_settings(config.training, config.model)
    return [dict(settings) for settings in config.try_first if not list(first_problems((settings,), space, fixed))]


def _only_known(config: SweepConfig) -> Any:
    """Return the finder of the files that the session has sent to its workers."""
    known = {source.name: source for source in config.network_files.sources}

    def find(name: str) -> NetworkSource:
        if name not in known:
            raise ConfigError([Problem(name, "a file is sent to the workers when a session starts, not later")])
        return known[name]

    return find


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that differ, by dotted name, with their new values; None for one that is gone."""
    was, now = dict(flat_names(before)), dict(flat_names(after))
    differing = (key for key in {**was, **now} if was.get(key) != now.get(key))
    return {key: now.get(key) for key in differing if key.partition(".")[0] != "try_first"}
