"""What makes one trial better than another: objectives, and constraints that it has to meet."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, Strict, model_validator

from orchestrator.config.sections.section import Section
from orchestrator.errors import Problem, did_you_mean

Mode = Literal["max", "min"]

TRAINED: Mapping[str, Mode] = {"val/top1": "max", "val/top5": "max", "val/loss": "min", "train/loss": "min"}
"""Metrics of every epoch, and which way they are better."""

COSTS: Mapping[str, Mode] = {"params": "min", "macs": "min", "latency_ms": "min"}
"""What a network costs; counted or measured only where it is asked for."""

SPAN = "span/mean_px"
METRICS: Mapping[str, Mode] = {**TRAINED, **COSTS, SPAN: "min"}
_CONSTRAINT = re.compile(r"\s*(\S+)\s*(<=|>=)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*")


class ObjectiveConfig(Section):
    """What makes one trial better than another.

    Args:
        metric: A metric reported every epoch.
        mode: `max` or `min`; accuracies are maximised and all else is minimised unless it says otherwise.
    """

    metric: str = "val/top1"
    mode: Mode = "max"

    @model_validator(mode="before")
    @classmethod
    def _natural_mode(cls, raw: Any) -> Any:
        if isinstance(raw, Mapping) and "mode" not in raw and isinstance(raw.get("metric"), str):
            return {**raw, "mode": METRICS.get(raw["metric"], "max")}
        return raw


def _as_list(raw: Any) -> Any:
    return raw if isinstance(raw, list | tuple) else (raw,)


def _as_written(objectives: tuple[ObjectiveConfig, ...]) -> Any:
    """Return a single objective without a list around it, as it is written in YAML."""
    written = [objective.model_dump() for objective in objectives]
    return written[0] if len(written) == 1 else written


ObjectiveList = Annotated[
    tuple[ObjectiveConfig, ...],
    Strict(strict=False),
    Field(min_length=1),
    BeforeValidator(_as_list),
    PlainSerializer(_as_written),
]
"""One objective, or a list of them."""


@dataclass(frozen=True)
class Constraint:
    """A bound on a metric.

    Args:
        metric: Of the trial's best epoch.
        relation: `<=` or `>=`.
        bound: The value it is compared with.
    """

    metric: str
    relation: str
    bound: float

    def violation(self, value: float) -> float:
        """How far beyond the bound a value lies; zero or less where it keeps it."""
        return value - self.bound if self.relation == "<=" else self.bound - value


def parse_constraint(text: str) -> Constraint:
    """Reads a constraint such as `params <= 2e6`.

    Raises:
        ValueError: It is not a metric, `<=` or `>=`, and a number.
    """
    match = _CONSTRAINT.fullmatch(text)
    if match is None:
        raise ValueError("must be a metric, <= or >=, and a number, such as 'params <= 2e6'")
    return Constraint(match[1], match[2], float(match[3]))


def is_constraint(text: str) -> bool:
    """Whether a text can be read as one."""
    return _CONSTRAINT.fullmatch(text) is not None


def objective_problems(objectives: Sequence[ObjectiveConfig]) -> Iterator[Problem]:
    """Objectives that nothing reports, or that cannot lead.

    Args:
        objectives: At least one.
    """
    for index, objective in enumerate(objectives):
        where = "objective.metric" if len(objectives) == 1 else f"objective.{index}.metric"
        if objective.metric not in METRICS:
            yield Problem(where, f"unknown '{objective.metric}'. {did_you_mean(objective.metric, list(METRICS))}")
        elif objective.metric in [earlier.metric for earlier in objectives[:index]]:
            yield Problem(where, f"got '{objective.metric}' a second time; name each metric once")
        elif index == 0 and objective.metric not in TRAINED:
            yield Problem(
                where,
                f"got '{objective.metric}' first; the first objective chooses the best epoch and stops trials early. "
                "Put val/top1 before it",
            )


def constraint_problems(constraints: Sequence[str]) -> Iterator[Problem]:
    """Constraints that cannot be read, or that bound what nothing reports."""
    seen: set[str] = set()
    for index, text in enumerate(constraints):
        where = f"constraints.{index}"
        try:
            metric = parse_constraint(text).metric
        except ValueError as error:
            yield Problem(where, f"got {text!r}; {error}")
            continue
        if metric not in METRICS:
            yield Problem(where, f"unknown '{metric}'. {did_you_mean(metric, list(METRICS))}")
        elif text in seen:
            yield Problem(where, f"got {text!r} a second time; drop one")
        seen.add(text)
