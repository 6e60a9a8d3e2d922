"""Expansion of `space: NAME` into the domains of `search`, which may refine them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from orchestrator.config.fixed_settings import fixed_settings, shown
from orchestrator.config.sections.training import TrainingConfig
from orchestrator.errors import Problem, did_you_mean
from search_spaces import (
    ChoiceDomain,
    ConstantDomain,
    Domain,
    SearchSpace,
    kind_of,
    list_spaces,
    named_space,
    networks_of,
    open_conditions,
    refine,
    setting_of,
    without_fixed,
)
from search_spaces.domains import as_tuple
from search_spaces.named import OVER_ALL, ZOO

_DOMAIN: TypeAdapter[Any] = TypeAdapter(Domain)
_WHOLE = {"type", "choices", "value"}
"""Keys of which every complete domain has at least one; a mapping without them changes part of a domain."""


@dataclass(frozen=True)
class SpaceUse:
    """Record of how a named space was applied; excluded from comparisons, since the search space is written out.

    Args:
        name: Name of the space; empty where the sweep names none.
        fixed: Settings that the space would vary and the sweep fixes: place where each is written, and its value.
        unvaried: Settings that the space varies only together with values other than the fixed ones.
    """

    name: str = field(default="", compare=False)
    fixed: Mapping[str, Any] = field(default_factory=dict, compare=False)
    unvaried: tuple[str, ...] = field(default=(), compare=False)


class Expanded(NamedTuple):
    """Settings of a sweep with its space written out.

    Args:
        settings: Settings with all domains under `search`, without `space`.
        problems: Problems of the named space.
        use: Record of how the space was applied.
    """

    settings: dict[str, Any]
    problems: list[Problem]
    use: SpaceUse = SpaceUse()


def expand_space(raw: Mapping[str, Any]) -> Expanded:
    """Combine the named space with `search`, for the networks of the sweep, without the settings that it fixes.

    Args:
        raw: Settings of a sweep, as written.
    """
    settings = {key: value for key, value in raw.items() if key != "space"}
    name, search = raw.get("space"), raw.get("search") or {}
    if name is None or not isinstance(search, Mapping):
        return Expanded(settings, [])
    if name not in list_spaces():
        remedy = did_you_mean(name, list_spaces()) if isinstance(name, str) else f"Known: {', '.join(list_spaces())}."
        return Expanded(settings, [Problem("space", f"unknown {name!r}. {remedy}")])
    networks = _networks(search.get("model"), raw.get("model"))
    unserved = [network for network in networks if network not in networks_of(name) and kind_of(network)]
    if unserved:
        return Expanded(settings, [_other_space(name, network) for network in unserved])
    served = [network for network in networks if network in networks_of(name)]
    if networks and not served:  # of timm or of a file; a misspelt network is reported as such
        return Expanded(settings, [_no_space(name, network) for network in networks if _is_outside(network)])
    space = named_space(name, served or None)
    if len(served) < len(networks):
        space = _beside_others(space, networks, served)
    fixed = fixed_settings(raw.get("training"), raw.get("model"))
    domains, problems = _overlaid(space, search, fixed)
    return Expanded({**settings, "search": domains}, problems, _use(name, space, domains, fixed))


def _use(name: str, space: SearchSpace, search: Mapping[str, Any], fixed: Mapping[str, tuple[str, Any]]) -> SpaceUse:
    """Return which settings of a space are no longer searched, and why."""
    searched = {setting_of(key) for key in search if isinstance(key, str)}
    dropped = dict.fromkeys(setting for setting in map(setting_of, space) if setting not in searched)
    kept = {fixed[setting][0]: fixed[setting][1] for setting in dropped if setting in fixed}
    # settings dropped because `search` narrows a choice are not reported: the user asked for that
    conditional = {
        setting_of(key)
        for key, domain in space.items()
        if any(setting_of(parent) in fixed and parent not in search for parent in domain.when)
    }
    return SpaceUse(
        name, kept, tuple(setting for setting in dropped if setting not in fixed and setting in conditional)
    )


def _networks(searched: Any, fixed: Any) -> list[str]:
    """Return the names of the networks of a sweep, as far as its settings can be understood."""
    try:
        domain = None if searched is None else _DOMAIN.validate_python(searched)
    except ValidationError:
        return []
    if isinstance(domain, ChoiceDomain | ConstantDomain):
        return [value for value in domain.corners() if isinstance(value, str)]
    name = fixed.get("name") if isinstance(fixed, Mapping) else getattr(fixed, "name", None)
    return [name] if isinstance(name, str) else []


def _other_space(space: str, network: str) -> Problem:
    other = next(name for name in list_spaces() if name not in OVER_ALL and network in networks_of(name))
    return Problem("space", f"{space} has nothing for {network}. Use space: {other}, or space: {ZOO}")


def _beside_others(space: SearchSpace, networks: Sequence[str], served: Sequence[str]) -> SearchSpace:
    """Make the options of a space conditional on its own networks, beside others that lack them."""
    conditional = {
        name: domain.model_copy(update={"when": {"model": tuple(served), **domain.when}})
        for name, domain in space.items()
        if "model" not in (name, *domain.when) and setting_of(name) not in TrainingConfig.model_fields
    }
    return SearchSpace({**space, **conditional, "model": ChoiceDomain(choices=tuple(dict.fromkeys(networks)))})


def _is_outside(network: str) -> bool:
    """Return whether a network without a named space exists all the same."""
    import models

    return models.name_problem(network) is None


def _no_space(space: str, network: str) -> Problem:
    remedy = "Leave it out, and write the options and training settings to vary under search"
    return Problem("space", f"{space} has nothing for {network}, which is no network of SpatialSweep's own. {remedy}")


def _overlaid(
    space: SearchSpace, search: Mapping[str, Any], fixed: Mapping[str, tuple[str, Any]]
) -> tuple[dict[str, Any], list[Problem]]:
    """Replace domains of a space by those of the sweep, and return the result with the problems found.

    Domains that cannot be understood stay as written. Settings that the sweep fixes are not varied, unless `search`
    names them as well.
    """
    written = {name: _completed(space[name], content) if name in space else content for name, content in search.items()}
    decided = _decided(space, search, fixed)
    changes: dict[str, Any] = {}
    problems: list[Problem] = []
    for name, content in written.items():
        try:
            change = _DOMAIN.validate_python(content)
        except ValidationError:
            changes[name] = None
            continue
        if name in space and not change.when:
            change = change.model_copy(update={"when": space[name].when})
        when = open_conditions(change, decided)
        if when is None:
            problems.append(_closed(name, change, decided, fixed))
        else:
            changes[name] = change.model_copy(update={"when": when})
    reduced = SearchSpace(without_fixed(space, {name: value for name, value in decided.items() if name in space}))
    refined: dict[str, Any] = refine(
        reduced, {name: change for name, change in changes.items() if isinstance(name, str)}
    )
    invalid = (name for name, change in changes.items() if change is None or not isinstance(name, str))
    return refined | {name: written[name] for name in invalid}, problems  # reported by the checks of the sections


def _decided(space: SearchSpace, search: Mapping[str, Any], fixed: Mapping[str, tuple[str, Any]]) -> dict[str, Any]:
    """Return the values of the names that are not drawn because the sweep fixes their settings."""
    searched = {setting_of(name) for name in search if isinstance(name, str) and "/" not in name}
    bare = {setting: value for setting, (_, value) in fixed.items() if setting not in searched}
    labelled = {name: bare[setting_of(name)] for name in space if setting_of(name) in bare and name not in search}
    return {name: value for name, value in bare.items() if name not in search} | labelled


def _closed(name: str, domain: Domain, decided: Mapping[str, Any], fixed: Mapping[str, tuple[str, Any]]) -> Problem:
    """Return the problem of a name whose condition cannot hold, since a fixed value excludes it."""
    closing = (key for key in domain.when if key in decided and open_conditions(domain, {key: decided[key]}) is None)
    parent = next(closing)
    where, value = fixed[setting_of(parent)]
    wanted = " or ".join(map(shown, as_tuple(domain.when[parent])))
    return Problem(
        f"search.{name}",
        f"is searched beside {setting_of(parent)} {wanted} only, and {where} fixes {shown(value)}. "
        f"Write search.{setting_of(name)} instead, or leave {where} out",
    )


def _completed(domain: Domain, content: Any) -> Any:
    """Return a change to some keys of a domain, such as `{low: 0.1}`, completed with the others."""
    if isinstance(content, Mapping) and not _WHOLE & content.keys():
        return {**domain.model_dump(), **content}
    return content
