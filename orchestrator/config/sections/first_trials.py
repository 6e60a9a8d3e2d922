"""Configurations that a sweep tries first."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import PlainSerializer, PlainValidator

from orchestrator.config.fixed_settings import shown
from orchestrator.errors import Problem, did_you_mean
from search_spaces import Scalar, SearchSpace, setting_of

PAPERS: Literal["papers"] = "papers"


def _try_first(given: Any) -> Literal["papers"] | tuple[Mapping[str, Scalar], ...]:
    if given == PAPERS:
        return PAPERS
    if not isinstance(given, list | tuple) or not all(map(_is_configuration, given)):
        raise ValueError("must be papers, or a list of configurations such as [{lr: 0.1, order: 2}]; [] for none")
    return tuple(dict(configuration) for configuration in given)


def _is_configuration(given: Any) -> bool:
    if not isinstance(given, Mapping) or not given:
        return False
    return all(isinstance(name, str) and _is_scalar(value) for name, value in given.items())


def _is_scalar(value: Any) -> bool:
    return isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value))


TryFirst = Annotated[
    Literal["papers"] | tuple[Mapping[str, Scalar], ...],
    PlainValidator(_try_first),
    PlainSerializer(lambda given: given, Any),
]
"""Either `papers`, the papers' own values, or configurations by hand."""


def first_problems(
    try_first: str | tuple[Mapping[str, Scalar], ...],
    space: SearchSpace,
    fixed: Mapping[str, tuple[str, Any]] = MappingProxyType({}),
) -> Iterator[Problem]:
    """Yield values by hand that the space cannot draw and that differ from the fixed values of the sweep.

    Args:
        try_first: Setting `try_first` of the sweep.
        space: Search space of the sweep.
        fixed: Result of `fixed_settings`.
    """
    for number, settings in enumerate(() if isinstance(try_first, str) else try_first):
        for name, why in space.project(settings).left_out.items():
            where, value = fixed.get(name, ("", None)) if not space.setting(name) else ("", None)
            if where and shown(value) == shown(settings[name]):
                continue
            known = list(dict.fromkeys([*space, *map(setting_of, space)]))
            remedy = f". {did_you_mean(name, known)}" if known and name not in known else ""
            rule = f"{where} fixes {shown(value)}. Leave one of them out" if where else f"{why}{remedy}"
            yield Problem(f"try_first.{number}.{name}", f"got {settings[name]!r}; {rule}")
