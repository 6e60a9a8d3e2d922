"""Union of the domains that a search has had: of a space that the user has changed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

_MOST_STEPS = 1_000_000
_ROUNDING = 1e-8
"""Share of a step by which values of a grid may be off, as for a domain."""


def merged_domains(
    earlier: Mapping[str, Any], search: Mapping[str, Any], *, new_conditions: bool = False
) -> dict[str, Any]:
    """Return the domains of two search spaces together: the conditions of the first, choices and bounds of both.

    A union has the values of both; where the grids of two domains are shifted against each other, in smaller steps.

    Args:
        earlier: Domains recorded first, by searched name, as plain data.
        search: Domains recorded later.
        new_conditions: Take the conditions of the second.
    """
    united = {name: _united(earlier.get(name, domain), domain) for name, domain in search.items()}
    if new_conditions:
        conditions = {name: {"when": domain.get("when", {})} for name, domain in search.items() if _is_plain(domain)}
        united = {name: {**domain, **conditions.get(name, {})} for name, domain in united.items() if _is_plain(domain)}
    return {**earlier, **united}


def _is_plain(domain: Any) -> bool:
    return isinstance(domain, Mapping)


def _united(before: Any, later: Any) -> Any:
    """Return a domain with the choices and bounds of both; in the order of the first, so that their indices stay."""
    if not _is_plain(before) or not _is_plain(later) or before.get("type") != later.get("type"):
        return later
    known = _choices(before)
    united = {**before}
    if added := [choice for choice in _choices(later) if _typed(choice) not in map(_typed, known)]:
        united["choices"] = [*known, *added]
    for key, widest in (("low", min), ("high", max)):
        bounds = [domain[key] for domain in (before, later) if isinstance(domain.get(key), int | float)]
        if len(bounds) == len((before, later)):
            united[key] = widest(bounds)
    if before.get("step") is not None and _is_bounded(before) and _is_bounded(later):
        united["step"] = _common_step(before, later, united["high"] - united["low"])
    return united


def _is_bounded(domain: Mapping[str, Any]) -> bool:
    return all(isinstance(domain.get(key), int | float) for key in ("low", "high"))


def _common_step(before: Mapping[str, Any], later: Mapping[str, Any], width: float) -> Any:
    """Return the largest step of a grid with the values of both domains; None for a continuum of real numbers.

    Args:
        before: Domain with a step.
        later: Domain of the same type.
        width: Difference between the bounds of the union.
    """
    is_whole = before["type"] == "int"
    steps = [before["step"], later.get("step", 1 if is_whole else None)]
    if not all(isinstance(step, int | float) and step > 0 for step in steps):
        return None
    one, other, low, other_low = (Fraction(str(number)) for number in (*steps, before["low"], later["low"]))
    shift = abs(low - other_low) % one
    parts = [one, other, shift if _ROUNDING * one < shift < (1 - _ROUNDING) * one else Fraction(0)]
    scale = math.lcm(*(part.denominator for part in parts))  # in binary fractions 0.3 is no multiple of 0.1
    step = Fraction(math.gcd(*(int(part * scale) for part in parts)), scale)
    if is_whole:
        return int(step)
    return float(step) if width <= _MOST_STEPS * step else None


def _choices(domain: Mapping[str, Any]) -> Sequence[Any]:
    found = domain.get("choices")
    return found if isinstance(found, list | tuple) else ()


def _typed(value: Any) -> tuple[str, Any]:
    return type(value).__name__, value
