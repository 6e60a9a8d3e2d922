"""`space: NAME` in a sweep: a named space becomes the domains of `search`, which may refine them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

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
    refine,
    setting_of,
)
from search_spaces.named import ZOO

_DOMAIN: TypeAdapter[Any] = TypeAdapter(Domain)
_WHOLE = {"type", "choices", "value"}
"""Keys of which every domain that is written out has one; a mapping without them changes a part of one."""


def expand_space(raw: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """Lays `search` over the space that `space` names, for the networks of the sweep.

    Args:
        raw: Settings of a sweep as written.

    Returns:
        The settings with all domains under `search` and without `space`, and what is wrong with the space.
    """
    settings = {key: value for key, value in raw.items() if key != "space"}
    name, search = raw.get("space"), raw.get("search") or {}
    if name is None or not isinstance(search, Mapping):
        return settings, []
    if name not in list_spaces():
        remedy = did_you_mean(name, list_spaces()) if isinstance(name, str) else f"Known: {', '.join(list_spaces())}."
        return settings, [Problem("space", f"unknown {name!r}. {remedy}")]
    networks = _networks(search.get("model"), raw.get("model"))
    strangers = [network for network in networks if network not in networks_of(name) and kind_of(network)]
    if strangers:
        return settings, [_elsewhere(name, network) for network in strangers]
    served = [network for network in networks if network in networks_of(name)]
    if networks and not served:
        return settings, []  # a misspelt network, which is told as such
    return {**settings, "search": _laid_over(named_space(name, served or None), search)}, []


def _networks(searched: Any, fixed: Any) -> list[str]:
    """Names of the networks of a sweep, as far as its settings can be understood."""
    try:
        domain = None if searched is None else _DOMAIN.validate_python(searched)
    except ValidationError:
        return []
    if isinstance(domain, ChoiceDomain | ConstantDomain):
        return [value for value in domain.corners() if isinstance(value, str)]
    name = fixed.get("name") if isinstance(fixed, Mapping) else getattr(fixed, "name", None)
    return [name] if isinstance(name, str) else []


def _elsewhere(space: str, network: str) -> Problem:
    other = next(name for name in list_spaces() if name != ZOO and network in networks_of(name))
    return Problem("space", f"{space} has nothing for {network}. Use space: {other}, or space: {ZOO}")


def _laid_over(space: SearchSpace, search: Mapping[str, Any]) -> dict[str, Any]:
    """The domains of a space with those of the sweep in their place; what is not understood stays as written."""
    written = {name: _completed(space[name], content) if name in space else content for name, content in search.items()}
    changes: dict[str, Any] = {}
    for name, content in written.items():
        try:
            changes[name] = _DOMAIN.validate_python(content)
        except ValidationError:
            changes[name] = None
    refined: dict[str, Any] = refine(space, {name: change for name, change in changes.items() if isinstance(name, str)})
    return refined | {name: written[name] for name, change in changes.items() if change is None}


def _completed(domain: Domain, content: Any) -> Any:
    """A change to some keys of a domain, such as `{low: 0.1}`, with the rest of them."""
    if isinstance(content, Mapping) and not _WHOLE & content.keys():
        return {**domain.model_dump(), **content}
    return content


def domains_of(setting: str, search: Mapping[str, Domain]) -> Iterator[tuple[str, Domain]]:
    """The searched names that set this, with their domains."""
    return ((name, domain) for name, domain in search.items() if setting_of(name) == setting)


def corner_values(setting: str, search: Mapping[str, Domain]) -> Iterable[Any]:
    """Extreme values of all domains of a setting."""
    return [value for _, domain in domains_of(setting, search) for value in domain.corners()]
