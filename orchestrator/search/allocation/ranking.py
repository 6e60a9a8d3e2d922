"""Order of trials by their scores: by value with one objective, by non-dominated rank with several.

Trials that no other dominates form the first front, those that only the first front dominates the second, and so on
(Deb et al. 2002). Within a front, trials far from their neighbours come first, which keeps the ends of the front.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from orchestrator.search.allocation.allocator import Scores


def best_first(scores: Sequence[Scores]) -> list[int]:
    """Return the positions of score tuples, best first; among equals the earlier position comes first.

    Args:
        scores: One tuple per trial, all of one length; larger is better.
    """
    if not scores:
        return []
    if len(scores[0]) == 1:
        return sorted(range(len(scores)), key=lambda place: (-scores[place][0], place))
    ordered: list[int] = []
    for front in fronts(scores):
        distance = _crowding_distances([scores[place] for place in front])
        by_distance = sorted(
            zip(front, distance, strict=True), key=lambda pair: (-pair[1], -scores[pair[0]][0], pair[0])
        )
        ordered += [place for place, _ in by_distance]
    return ordered


def fronts(scores: Sequence[Scores]) -> list[list[int]]:
    """Return the positions of score tuples by non-dominated front, best front first, ascending within a front.

    A tuple dominates another if it is at least as large everywhere and larger somewhere. Tuples are entered in
    descending order, so that none is dominated by a later one, and the front of each is found by bisection.

    Args:
        scores: One tuple per trial, all of one length; larger is better.
    """
    found: list[list[int]] = []
    for place in sorted(range(len(scores)), key=lambda place: [-value for value in scores[place]]):
        low, high = 0, len(found)
        while low < high:
            middle = (low + high) // 2
            if _is_dominated(scores[place], found[middle], scores):
                low = middle + 1
            else:
                high = middle
        if low == len(found):
            found.append([])
        found[low].append(place)
    return [sorted(front) for front in found]


def dominates(one: Scores, other: Scores) -> bool:
    """Return whether the first tuple is at least as large everywhere and larger somewhere."""
    return all(a >= b for a, b in zip(one, other, strict=True)) and tuple(one) != tuple(other)


def _is_dominated(candidate: Scores, front: Sequence[int], scores: Sequence[Scores]) -> bool:
    if len(candidate) == 2:  # of those entered before, the last has the largest second score
        return dominates(scores[front[-1]], candidate)
    return any(dominates(scores[place], candidate) for place in reversed(front))


def _crowding_distances(front: Sequence[Scores]) -> list[float]:
    """Return the distance of each tuple between its neighbours in every objective; infinite at the ends."""
    distances = [0.0] * len(front)
    for objective in range(len(front[0])):
        order = sorted(range(len(front)), key=lambda place: (front[place][objective], place))
        values = [front[place][objective] for place in order]
        distances[order[0]] = distances[order[-1]] = math.inf
        width = values[-1] - values[0]
        if not 0 < width < math.inf:
            continue
        for place, before, after in zip(order[1:-1], values, values[2:], strict=False):
            distances[place] += (after - before) / width
    return distances
