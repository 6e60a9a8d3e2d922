"""The tasks by name."""

from __future__ import annotations

from orchestrator.config.tasks.registry import register_facts, unknown_task
from orchestrator.errors import ConfigError
from orchestrator.training.tasks.classification import Classification
from orchestrator.training.tasks.detection import Detection, Instances
from orchestrator.training.tasks.segmentation import Segmentation
from orchestrator.training.tasks.task import Task

__all__ = ["find_task", "register_task"]

_TASKS: dict[str, Task] = {}


def register_task(task: Task) -> None:
    """Enter a task under its name, in this process.

    Args:
        task: The task; one that was registered under its name is replaced if it is of the same class.

    Raises:
        ValueError: Its name, or the name of a metric, is taken with another meaning.
    """
    known = _TASKS.get(task.facts.name)
    if known is not None and type(known) is not type(task):
        raise ValueError(f"a task named {task.facts.name} is registered already; choose another name")
    register_facts(task.facts)
    _TASKS[task.facts.name] = task


def find_task(name: str) -> Task:
    """Return the task of a name.

    Raises:
        ConfigError: There is no such task; the message names the nearest one.
    """
    if name not in _TASKS:
        raise ConfigError([unknown_task(name)])
    return _TASKS[name]


register_task(Classification())
register_task(Segmentation())
register_task(Detection())
register_task(Instances())
