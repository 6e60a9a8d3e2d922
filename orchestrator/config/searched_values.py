"""Values that a search may give to a setting."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.config.sections.training import TrainingConfig
from search_spaces import Domain, setting_of


def domains_of(setting: str, search: Mapping[str, Domain]) -> Iterator[tuple[str, Domain]]:
    """Yield the searched names that set a setting, with their domains."""
    return ((name, domain) for name, domain in search.items() if setting_of(name) == setting)


def corner_values(setting: str, search: Mapping[str, Domain]) -> list[Any]:
    """Return the extreme values of all domains of a setting."""
    return [value for _, domain in domains_of(setting, search) for value in domain.corners()]


def max_epochs(training: TrainingConfig, search: Mapping[str, Domain]) -> int:
    """Return the number of epochs of the longest trial: that of `training`, unless epochs are searched."""
    searched = [value for value in corner_values("epochs", search) if isinstance(value, int)]
    return max(searched, default=training.epochs)


@dataclass(frozen=True)
class Setting:
    """A training setting with all values that trials may use.

    Args:
        where: Dotted path of the searched name, or of the fixed setting.
        values: Corners of the searched domains, or the fixed value.
    """

    where: str
    values: tuple[Any, ...]

    @classmethod
    def of(cls, name: str, training: TrainingConfig, search: Mapping[str, Domain]) -> Setting:
        """Return the setting of a name."""
        searched = dict(domains_of(name, search))
        if searched:
            return cls(f"search.{next(iter(searched))}", tuple(corner_values(name, search)))
        return cls(f"training.{name}", (getattr(training, name),))
