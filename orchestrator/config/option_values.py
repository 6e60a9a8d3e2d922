"""Values of dedicated options: they reach the configuration as they are, and never as YAML."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def setting_values(
    *,
    name: str | None = None,
    tracking_uri: str | None = None,
    storage_uri: str | None = None,
    runs_dir: str | Path | None = None,
) -> Mapping[str, str]:
    """Return the settings that options were given for, by their dotted names, as `load_sweep` takes them.

    Args:
        name: Name of the sweep.
        tracking_uri: Address of MLflow.
        storage_uri: Address of the studies' database.
        runs_dir: Folder of all results.
    """
    given = {
        "name": name,
        "tracking.uri": tracking_uri,
        "storage.uri": storage_uri,
        "runs_dir": None if runs_dir is None else str(runs_dir),
    }
    return {setting: value for setting, value in given.items() if value is not None}
