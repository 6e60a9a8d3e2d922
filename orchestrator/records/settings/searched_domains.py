"""Union of the domains that a search has had: of a space that the user has changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def merged_domains(
    earlier: Mapping[str, Any], search: Mapping[str, Any], *, new_conditions: bool = False
) -> dict[str, Any]:
    """Return the domains of two search spaces together: the conditions of the first, choices and bounds of both.

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
    return united


def _choices(domain: Mapping[str, Any]) -> Sequence[Any]:
    found = domain.get("choices")
    return found if isinstance(found, list | tuple) else ()


def _typed(value: Any) -> tuple[str, Any]:
    return type(value).__name__, value
