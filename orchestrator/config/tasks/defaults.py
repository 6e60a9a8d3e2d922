"""Settings that a sweep leaves out and that its task sets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.config.tasks.registry import DEFAULT_TASK, list_tasks, task_facts

__all__ = ["with_task_defaults"]


def with_task_defaults(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the settings of a sweep with the objective and the loss of its task, where it leaves them out.

    The settings of the default task are those of the sections; a task that is unknown is reported elsewhere.

    Args:
        raw: Settings as written.
    """
    name, training = raw.get("task", DEFAULT_TASK), raw.get("training")
    if name == DEFAULT_TASK or name not in list_tasks():
        return raw
    facts = task_facts(name)
    section = {} if training is None else training
    if isinstance(section, Mapping) and "loss" not in section:
        section = {"loss": facts.losses[0], **section}
    return {"objective": {"metric": facts.objective, "mode": facts.primary.mode}, **raw, "training": section}
