"""Configurations of a search space as points of the unit cube, for models and distances."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from search_spaces import SearchSpace
from search_spaces.domains import ChoiceDomain, Domain, FloatDomain, IntDomain

_HALF = math.sqrt(0.5)  # two different choices are at distance 1


class SpaceEncoding:
    """Map from configurations to points; each number is one coordinate, each value of a choice another.

    A number lies between 0 and 1, on a logarithmic scale where its domain has one. A name that takes no part in a
    configuration lies in the middle of its numbers, or at the origin of its choice. Constants have no coordinate.

    Args:
        space: Space of the configurations.
    """

    def __init__(self, space: SearchSpace) -> None:
        self._domains: dict[str, Domain] = {
            name: domain
            for name, domain in space.items()
            if isinstance(domain, FloatDomain | IntDomain | ChoiceDomain) and len(set(map(repr, domain.corners()))) > 1
        }
        self.names = tuple(self._domains)
        self.dimensions = sum(
            len(domain.choices) if isinstance(domain, ChoiceDomain) else 1 for domain in self._domains.values()
        )

    def encode(self, values: Mapping[str, Any]) -> list[float]:
        """Return the point of a configuration.

        Args:
            values: Searched values by name; others are ignored.
        """
        point: list[float] = []
        for name, domain in self._domains.items():
            if isinstance(domain, ChoiceDomain):
                given = repr(values[name]) if name in values else None
                point += [_HALF if repr(choice) == given else 0.0 for choice in domain.choices]
            elif isinstance(domain, FloatDomain | IntDomain):
                point.append(_coordinate(domain, values[name]) if name in values else 0.5)
        return point


def _coordinate(domain: FloatDomain | IntDomain, value: float) -> float:
    low, high = domain.corners()
    if domain.log:
        return math.log(value / low) / math.log(high / low)
    return (value - low) / (high - low)
