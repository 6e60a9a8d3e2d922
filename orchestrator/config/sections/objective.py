"""Objectives and constraints, by which trials are compared."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainSerializer, Strict, model_validator

from orchestrator.config.sections.section import Section
from orchestrator.config.tasks.classification import CLASSIFICATION
from orchestrator.config.tasks.facts import Mode, TaskFacts
from orchestrator.config.tasks.registry import known_mode
from orchestrator.errors import Problem, did_you_mean

COSTS: Mapping[str, Mode] = {"params": "min", "macs": "min", "latency_ms": "min"}
"""Costs of a network; counted or measured only where an objective or a constraint uses them."""

SPAN = "span/mean_px"
_OF_ANY_TASK: Mapping[str, Mode] = {**COSTS, SPAN: "min"}
_CONSTRAINT = re.compile(r"\s*(\S+)\s*(<=|>=)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*")


class ObjectiveConfig(Section):
    """A metric to maximise or minimise.

    Args:
        metric: Name of a metric that is reported every epoch.
        mode: `max` or `min`; by default the direction that the task gives its metric, and `min` for costs.
    """

    metric: str = CLASSIFICATION.objective
    mode: Mode = CLASSIFICATION.primary.mode

    @model_validator(mode="before")
    @classmethod
    def _natural_mode(cls, raw: Any) -> Any:
        if isinstance(raw, Mapping) and "mode" not in raw and isinstance(raw.get("metric"), str):
            return {**raw, "mode": natural_mode(raw["metric"]) or "max"}
        return raw


def natural_mode(metric: str) -> Mode | None:
    """Return the direction of improvement of a metric: of a task, or of the network; None where it is unknown."""
    return _OF_ANY_TASK.get(metric) or known_mode(metric)


def metrics_of(task: TaskFacts) -> dict[str, Mode]:
    """Return the metrics that trials of a task report, with their directions."""
    return {**task.reported, **_OF_ANY_TASK}


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
        metric: Name of a metric of the best epoch of a trial.
        relation: `<=` or `>=`.
        bound: Largest or smallest allowed value.
    """

    metric: str
    relation: str
    bound: float

    def violation(self, value: float) -> float:
        """Return the amount by which a value violates the bound; zero or less where it does not."""
        return value - self.bound if self.relation == "<=" else self.bound - value


def parse_constraint(text: str) -> Constraint:
    """Parse a constraint such as `params <= 2e6`.

    Raises:
        ValueError: The text is not a metric, `<=` or `>=`, and a number.
    """
    match = _CONSTRAINT.fullmatch(text)
    if match is None:
        raise ValueError("must be a metric, <= or >=, and a number, such as 'params <= 2e6'")
    return Constraint(match[1], match[2], float(match[3]))


def is_constraint(text: str) -> bool:
    """Check whether a text is a constraint."""
    return _CONSTRAINT.fullmatch(text) is not None


def objective_problems(objectives: Sequence[ObjectiveConfig], task: TaskFacts) -> Iterator[Problem]:
    """Yield objectives that no trial reports, and first objectives that cannot choose epochs.

    Args:
        objectives: Objectives of the sweep, at least one.
        task: Task of the sweep.
    """
    known = metrics_of(task)
    for index, objective in enumerate(objectives):
        where = "objective.metric" if len(objectives) == 1 else f"objective.{index}.metric"
        if objective.metric not in known:
            yield Problem(where, f"unknown '{objective.metric}'. {did_you_mean(objective.metric, list(known))}")
        elif objective.metric in [earlier.metric for earlier in objectives[:index]]:
            yield Problem(where, f"got '{objective.metric}' a second time; name each metric once")
        elif index == 0 and objective.metric not in task.reported:
            yield Problem(
                where,
                f"got '{objective.metric}' first; the first objective chooses the best epoch and stops trials early. "
                f"Put {task.objective} before it",
            )


def constraint_problems(constraints: Sequence[str], task: TaskFacts) -> Iterator[Problem]:
    """Yield constraints that cannot be parsed, or whose metric no trial of the task reports."""
    known = metrics_of(task)
    seen: set[str] = set()
    for index, text in enumerate(constraints):
        where = f"constraints.{index}"
        try:
            metric = parse_constraint(text).metric
        except ValueError as error:
            yield Problem(where, f"got {text!r}; {error}")
            continue
        if metric not in known:
            yield Problem(where, f"unknown '{metric}'. {did_you_mean(metric, list(known))}")
        elif text in seen:
            yield Problem(where, f"got {text!r} a second time; drop one")
        seen.add(text)
