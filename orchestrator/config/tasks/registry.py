"""Known tasks by name, and what may be asked about a metric whatever its task.

Records of sweeps outlive the code of a task. Readers therefore look up the task of a record with `recorded_task`, which
returns facts for every name, and show what they do not know without a label.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.config.tasks.classification import CLASSIFICATION
from orchestrator.config.tasks.detection import DETECTION, INSTANCES
from orchestrator.config.tasks.facts import Mode, TaskFacts, TaskMetric, is_name
from orchestrator.config.tasks.segmentation import SEGMENTATION
from orchestrator.errors import ConfigError, Problem, did_you_mean

__all__ = [
    "DEFAULT_TASK",
    "known_metric",
    "known_mode",
    "list_losses",
    "list_tasks",
    "recorded_task",
    "register_facts",
    "task_facts",
    "unknown_task",
]

DEFAULT_TASK = CLASSIFICATION.name
"""Task of a sweep, a journal or a checkpoint that names none."""

_FACTS: dict[str, TaskFacts] = {each.name: each for each in (CLASSIFICATION, DETECTION, INSTANCES, SEGMENTATION)}


def register_facts(facts: TaskFacts) -> None:
    """Make a task known to configuration and readers.

    A metric of one name has one direction and one format in all tasks, so that a report is read without its task.

    Args:
        facts: Facts of the task.

    Raises:
        ValueError: Another task has the name, or a metric of another task has one of its names with another meaning.
    """
    if _FACTS.get(facts.name, facts) != facts:
        raise ValueError(f"a task named {facts.name} is registered already; choose another name")
    for metric in facts.metrics:
        other = known_metric(metric.name)
        if other is not None and (other.mode, other.is_share) != (metric.mode, metric.is_share):
            raise ValueError(
                f"{facts.name}: its metric {metric.name} differs in direction or format from that of another task; "
                "choose another name"
            )
    _FACTS[facts.name] = facts


def list_tasks() -> list[str]:
    """Return the names of the tasks."""
    return list(_FACTS)


def list_losses() -> list[str]:
    """Return the names of the losses of all tasks, each once."""
    return list(dict.fromkeys(loss for facts in _FACTS.values() for loss in facts.losses))


def task_facts(name: str) -> TaskFacts:
    """Return the facts of a task.

    Raises:
        ConfigError: There is no such task; the message names the nearest one.
    """
    if name not in _FACTS:
        raise ConfigError([unknown_task(name)])
    return _FACTS[name]


def unknown_task(name: str) -> Problem:
    """Return the problem of a name that no task has."""
    return Problem("task", f"unknown {name!r}. {did_you_mean(name, list_tasks())}")


def recorded_task(config: Mapping[str, Any]) -> TaskFacts:
    """Return the facts of the task in recorded settings of a sweep or a trial; those of an unknown task are generic.

    Args:
        config: Recorded settings; those of a version without tasks name none.
    """
    name = config.get("task", DEFAULT_TASK)
    return _FACTS[name] if isinstance(name, str) and name in _FACTS else _generic(config)


def known_metric(name: str) -> TaskMetric | None:
    """Return the metric of a name, such as `val/top1`, of whichever task has it; None where none has."""
    return next((found for facts in _FACTS.values() if (found := facts.metric(name)) is not None), None)


def known_mode(name: str) -> Mode | None:
    """Return the direction of improvement of a reported metric of any task; None for one that no task reports."""
    return next((facts.reported[name] for facts in _FACTS.values() if name in facts.reported), None)


def _generic(config: Mapping[str, Any]) -> TaskFacts:
    """Return facts of a task that this process does not know: its recorded objective is its primary metric."""
    written = config.get("objective")
    first = written[0] if isinstance(written, list | tuple) and written else written
    metric = first.get("metric") if isinstance(first, Mapping) else None
    name = metric.removeprefix("val/") if isinstance(metric, str) else ""
    mode: Mode = "min" if isinstance(first, Mapping) and first.get("mode") == "min" else "max"
    primary = TaskMetric(name=name if is_name(name) else "value", mode=mode, label=name or "value")
    task = config.get("task")
    return TaskFacts(
        name=task if isinstance(task, str) and is_name(task) else "unknown", metrics=(primary,), losses=("",)
    )
