"""Limits that end a sweep before all trials have run, and prices of devices."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated

from pydantic import BeforeValidator, Field, NonNegativeFloat, PositiveFloat, PositiveInt

from orchestrator.config.sections.objective import ObjectiveConfig
from orchestrator.config.sections.resources import ResourcesConfig
from orchestrator.config.sections.section import Section
from orchestrator.config.tasks.registry import known_metric
from orchestrator.errors import Problem

_UNIT_S = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_DURATION = re.compile(r"\s*(?:(\d+(?:\.\d+)?)\s*([dhms]))\s*")


def parse_duration(given: object) -> object:
    """Return the seconds of a text such as `2h` or `1h30m`; any other object is returned as it is, for its type check.

    Raises:
        ValueError: The text is not a duration.
    """
    if not isinstance(given, str):
        return given
    parts = _DURATION.findall(given)
    if not parts or _DURATION.sub("", given):
        raise ValueError("a duration is a number of seconds, or numbers with d, h, m, s. Use 2h, 90m or 1h30m")
    return sum(float(number) * _UNIT_S[unit] for number, unit in parts)


Duration = Annotated[float, BeforeValidator(parse_duration), Field(gt=0)]
"""Duration in seconds; in YAML and on the command line also text such as `1h30m`."""


class BudgetConfig(Section):
    """Limits that end a sweep early; the first one reached ends it. None sets no limit.

    Times and devices are summed over all sessions of a resumed sweep.

    Args:
        wall_clock: Elapsed time, such as `2h`, `1h30m`, or seconds.
        cpu_hours: CPUs reserved by trials times the hours for which they were reserved.
        gpu_hours: GPUs reserved by trials times the hours for which they were reserved.
        epochs: Epochs that all trials train together; those that a trial repeats are not counted again.
        target: Value of the (first) objective that is good enough; compared after every report.
        patience: Number of consecutive trials that end, or pause for the first time, without a new best value of the
            (first) objective.
        price_per_cpu_hour: Price of a CPU hour, in any currency; sets no limit.
        price_per_gpu_hour: Price of a GPU hour, in any currency; sets no limit.
    """

    wall_clock: Duration | None = None
    cpu_hours: PositiveFloat | None = None
    gpu_hours: PositiveFloat | None = None
    epochs: PositiveInt | None = None
    target: float | None = None
    patience: PositiveInt | None = None
    price_per_cpu_hour: NonNegativeFloat | None = None
    price_per_gpu_hour: NonNegativeFloat | None = None


def budget_problems(
    budget: BudgetConfig, objective: ObjectiveConfig | None, resources: ResourcesConfig | None
) -> Iterator[Problem]:
    """Yield limits that cannot be reached as written."""
    if resources and resources.gpus_per_worker == 0 and budget.gpu_hours is not None:
        yield Problem("budget.gpu_hours", "trials reserve no GPU (resources.gpus_per_worker: 0). Use budget.cpu_hours")
    metric = known_metric(objective.metric) if objective else None
    is_share = metric is not None and metric.is_share
    if objective and budget.target is not None and is_share and not 0 <= budget.target <= 1:
        remedy = f". Use {budget.target / 100:g}" if 1 < budget.target <= 100 else ""
        yield Problem("budget.target", f"got {budget.target:g}; {objective.metric} is a share from 0 to 1{remedy}")
