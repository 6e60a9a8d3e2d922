"""Spaces by name: one for every family, and `spatial_zoo`, `segmentation` and `detection` over all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from search_spaces.domains import ChoiceDomain, Domain, as_tuple
from search_spaces.families import KINDS, Kind, kind_of
from search_spaces.space import SearchSpace, SpaceError
from search_spaces.training import DENSE, OBJECTS, SHARED

__all__ = [
    "DETECTION",
    "OVER_ALL",
    "SEGMENTATION",
    "ZOO",
    "list_spaces",
    "named_space",
    "networks_of",
    "open_conditions",
    "refine",
    "without_fixed",
]

ZOO, SEGMENTATION, DETECTION = "spatial_zoo", "segmentation", "detection"
OVER_ALL = {ZOO: SHARED, SEGMENTATION: DENSE, DETECTION: OBJECTS}
"""Spaces that serve the networks of all families, with the settings of training and of heads that they vary."""


def list_spaces() -> list[str]:
    """Return the names of all spaces."""
    return [*dict.fromkeys(kind.family for kind in KINDS.values()), *OVER_ALL]


def networks_of(space: str) -> list[str]:
    """Return the names of the networks that a space serves.

    Raises:
        SpaceError: There is no such space.
    """
    if space not in list_spaces():
        raise SpaceError(f"no space is called {space!r}; there are {', '.join(list_spaces())}")
    return [network for kind in KINDS.values() if space in (*OVER_ALL, kind.family) for network in kind.networks]


def named_space(name: str, networks: Sequence[str] | None = None) -> SearchSpace:
    """Return the natural space of a family, or of all of them, for chosen networks.

    One network gives a space without `model`; several give a choice of `model`. Where these have different options,
    names carry a label, such as `lsas/reduction`, and are searched under the condition that `model` is one of their
    networks. Training settings are the family's own for a family, and shared in the spaces over all families, of which
    `segmentation` and `detection` vary the head as well.

    Args:
        name: Name of the space, from `list_spaces()`.
        networks: Networks that the space serves; the smallest of the family, or of every family, when None.

    Raises:
        SpaceError: There is no such space, or it does not serve one of the networks.
    """
    served = networks_of(name)
    smallest = [
        kind.networks[0] for key, kind in KINDS.items() if key == kind.family and name in (*OVER_ALL, kind.family)
    ]
    chosen = tuple(dict.fromkeys(smallest if networks is None else networks))
    unserved = [network for network in chosen if network not in served]
    if unserved or not chosen:
        raise SpaceError(f"{name} serves {', '.join(served)}; got {', '.join(unserved) or 'none'}")
    kinds = {key: KINDS[key] for key in dict.fromkeys(map(_kind_of, chosen))}
    domains: dict[str, Domain] = {} if len(chosen) == 1 else {"model": ChoiceDomain(choices=chosen)}
    for key, kind in kinds.items():
        domains |= kind.options if len(kinds) == 1 else _labelled(key, kind, chosen)
    return SearchSpace({**domains, **OVER_ALL.get(name, next(iter(kinds.values())).training)})


def _labelled(label: str, kind: Kind, chosen: Sequence[str]) -> dict[str, Domain]:
    """Return the options of a kind under a label, on condition that `model` is one of its networks."""
    own = tuple(network for network in chosen if network in kind.networks)
    labelled: dict[str, Domain] = {}
    for name, domain in kind.options.items():
        when = {f"{label}/{parent}": wanted for parent, wanted in domain.when.items()}
        labelled[f"{label}/{name}"] = domain.model_copy(update={"when": {"model": own, **when}})
    return labelled


def _kind_of(network: str) -> str:
    kind = kind_of(network)
    assert kind is not None, network
    return kind


def refine(space: SearchSpace, changes: Mapping[str, Domain | None]) -> dict[str, Domain]:
    """Replace some of the domains of a space.

    A change takes the place of the domain of its name, and keeps its condition unless it brings one. Under a name
    without a label it takes the place of all domains that set the same. Domains that can no longer be drawn, because
    the choice they depend on was narrowed, leave the space.

    Args:
        space: Space to be changed.
        changes: Name to domain; None for an invalid one, which leaves its place empty.
    """
    merged: dict[str, Domain | None] = dict(space)
    for name, change in changes.items():
        if name in space and change is not None and not change.when:
            merged[name] = change.model_copy(update={"when": space[name].when})
            continue
        for other in [] if "/" in name else space.setting(name):
            merged.pop(other)
        merged[name] = change
    return _possible({name: domain for name, domain in merged.items() if domain is not None}, keep=set(changes))


def without_fixed(space: Mapping[str, Domain], fixed: Mapping[str, object]) -> dict[str, Domain]:
    """Remove the names whose value is decided elsewhere.

    Conditions that such a value meets are dropped; domains that depend on another value leave the space, and with them
    those that depend on them.

    Args:
        space: Name to domain.
        fixed: Values by name.
    """
    kept: dict[str, Domain] = {}
    for name, domain in SearchSpace(space).items():  # parents first
        if name in fixed or not all(parent in fixed or parent in kept for parent in domain.when):
            continue
        when = open_conditions(domain, fixed)
        if when is not None:
            kept[name] = domain if len(when) == len(domain.when) else domain.model_copy(update={"when": when})
    return {name: kept[name] for name in space if name in kept}


def open_conditions(domain: Domain, fixed: Mapping[str, object]) -> dict[str, Any] | None:
    """Return the conditions of a domain that fixed values leave open; None where one can no longer hold."""
    for parent, wanted in domain.when.items():
        if parent in fixed and not any(_same(fixed[parent], value) for value in as_tuple(wanted)):
            return None
    return {parent: wanted for parent, wanted in domain.when.items() if parent not in fixed}


def _same(value: object, wanted: object) -> bool:
    """Return whether two values are equal; flags per stage may be a list or letters, and true is not 1."""
    if isinstance(value, list | tuple) and all(isinstance(flag, bool) for flag in value):
        value = "".join("T" if flag else "F" for flag in value)
    numbers = isinstance(value, int | float) and isinstance(wanted, int | float)
    alike = isinstance(value, bool) == isinstance(wanted, bool) if numbers else type(value) is type(wanted)
    return alike and value == wanted


def _possible(domains: Mapping[str, Domain], keep: set[str]) -> dict[str, Domain]:
    """Drop the domains whose condition needs a value that is not offered, and cut conditions to those offered."""
    possible: dict[str, Domain] = {}
    for name, domain in domains.items():
        if name in keep:
            possible[name] = domain
            continue
        offered = {parent: domains[parent].corners() if parent in domains else () for parent in domain.when}
        cut = {
            parent: tuple(value for value in as_tuple(wanted) if value in offered[parent])
            for parent, wanted in domain.when.items()
        }
        if all(cut.values()):
            is_whole = all(len(cut[parent]) == len(as_tuple(wanted)) for parent, wanted in domain.when.items())
            possible[name] = domain if is_whole else domain.model_copy(update={"when": cut})
    return possible if len(possible) == len(domains) else _possible(possible, keep)
