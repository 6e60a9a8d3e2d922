"""Tournament: a sweep whose arms get equal numbers of configurations, epochs and seeds, made from any sweep file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from orchestrator.config import SweepConfig, load_sweep
from orchestrator.config.load import overridden

SEEDS = 5
"""Seeds of the best configuration of each arm where the file names none: four that are compared, and the first."""


def load_tournament(
    source: str | Path | Mapping[str, Any],
    overrides: Sequence[str] = (),
    *,
    by: str | None = None,
    values: Mapping[str, Any] = MappingProxyType({}),
) -> SweepConfig:
    """Build the configuration of a tournament: what the file leaves open gets the value that a fair one needs.

    That is `tournament` (the network) and `seeds` (`SEEDS`); `trial_scheduler` is none in any tournament. What is
    written stays, and is refused where it is unfair.

    Args:
        source: Path of a sweep file, or its content as a mapping.
        overrides: Assignments to lay over it, as for `load_sweep`.
        by: Searched name whose choices are compared; None takes the file's, else the network.
        values: Values of settings to lay over it, as for `load_sweep`.

    Raises:
        ConfigError: The file cannot be read, or at least one setting is wrong; every problem is listed.
    """
    raw, _ = overridden(source, overrides, values)
    added: dict[str, Any] = {} if by is None else {"tournament": by}
    if by is None and raw.get("tournament") is None:
        added["tournament"] = "model"
    if "seeds" not in raw:
        added["seeds"] = SEEDS
    return load_sweep(source, overrides, values={**values, **added})
