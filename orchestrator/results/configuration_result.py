"""Result of a configuration over its seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.seeds.configurations import Configuration


@dataclass(frozen=True)
class ConfigurationResult:
    """Result of a configuration, trained with one or several seeds.

    Args:
        number: Number of the trial with the first seed.
        params: Searched values, by name.
        trials: Numbers of the trials that were trained to the end, by seed.
        values: Best value of the first objective of each of them.
        mean: Mean of the values; None without a value.
        ci_low: Lower end of the 95% interval of the mean (Student's t); None below two values.
        ci_high: Upper end of that interval.
        complete: Whether it was trained to the end with all seeds of the sweep.
    """

    number: int
    params: Mapping[str, Any]
    trials: tuple[int, ...]
    values: tuple[float, ...]
    mean: float | None
    ci_low: float | None
    ci_high: float | None
    complete: bool

    @classmethod
    def of(cls, found: Configuration, seeds: int) -> ConfigurationResult:
        """Return the result of a configuration.

        Args:
            found: Configuration with its trials.
            seeds: Number of seeds of the sweep.
        """
        known, estimate = sorted(found.values), found.estimate
        numbers = {trial.replicate: trial.number for trial in found.finished}
        ends: tuple[float | None, float | None] = (None, None)
        if estimate is not None and estimate.half_width is not None:
            ends = estimate.mean - estimate.half_width, estimate.mean + estimate.half_width
        return cls(
            number=found.number,
            params=found.first.params,
            trials=tuple(numbers[replicate] for replicate in known),
            values=tuple(found.values[replicate] for replicate in known),
            mean=None if estimate is None else estimate.mean,
            ci_low=ends[0],
            ci_high=ends[1],
            complete=found.is_complete(seeds),
        )
