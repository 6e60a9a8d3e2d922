"""The configurations of a finite space, one by one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from search_spaces.domains import ConstantDomain, Domain, FloatDomain, IntDomain
from search_spaces.space import SearchSpace

MOST_POINTS = 100_000


def grid_size(space: SearchSpace) -> int | None:
    """Points of the grid, counted no further than one past `MOST_POINTS`; None where a domain is a continuum."""
    if any(isinstance(domain, FloatDomain) and domain.step is None for domain in space.values()):
        return None
    return sum(1 for _ in _limited(grid_points(space)))


def grid_points(space: SearchSpace) -> Iterator[dict[str, Any]]:
    """Every configuration a finite space can draw; constants are left out, as Optuna does not see them."""
    return _extend({}, list(space), space)


def _limited(points: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for count, point in enumerate(points):
        if count > MOST_POINTS:
            return
        yield point


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


def _values(domain: Domain) -> Sequence[Any]:
    match domain:
        case IntDomain():
            return range(domain.low, domain.high + 1, domain.step)
        case FloatDomain():
            assert domain.step is not None
            steps = math.floor((domain.high - domain.low) / domain.step + 1e-8)
            return [domain.low + index * domain.step for index in range(steps + 1)]
        case _:
            return domain.corners()
