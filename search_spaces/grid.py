"""Configurations of a finite space, one by one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from search_spaces.domains import ConstantDomain, Domain, FloatDomain, IntDomain
from search_spaces.space import SearchSpace

MOST_POINTS = 100_000


def grid_size(space: SearchSpace) -> int | None:
    """Return the points of the grid, counted no further than past `MOST_POINTS`; None with a continuum."""
    if any(isinstance(domain, FloatDomain) and domain.step is None for domain in space.values()):
        return None
    points = 0
    for branch in space.branches():
        points += math.prod(value_count(space[name]) for name in space.active(branch) if name not in branch)
        if points > MOST_POINTS:
            break
    return points


def grid_points(space: SearchSpace) -> Iterator[dict[str, Any]]:
    """Return every configuration a finite space can draw, without constants, which Optuna does not record."""
    return _extend({}, list(space), space)


def _extend(values: dict[str, Any], names: Sequence[str], space: SearchSpace) -> Iterator[dict[str, Any]]:
    if not names:
        yield {name: value for name, value in values.items() if not isinstance(space[name], ConstantDomain)}
        return
    domain = space[names[0]]
    if not domain.is_active(values):
        yield from _extend(values, names[1:], space)
        return
    for value in _values(domain):
        yield from _extend({**values, names[0]: value}, names[1:], space)


def _values(domain: Domain) -> Iterable[Any]:
    match domain:
        case IntDomain():
            return range(domain.low, domain.high + 1, domain.step)
        case FloatDomain():
            return map(domain.grid_value, range(domain.steps + 1))
        case _:
            return domain.corners()


def value_count(domain: Domain) -> int:
    """Return the number of values of a domain that is no continuum."""
    match domain:
        case IntDomain():
            return (domain.high - domain.low) // domain.step + 1
        case FloatDomain():
            return domain.steps + 1
        case _:
            return len(domain.corners())
