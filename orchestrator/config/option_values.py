"""Values of dedicated command line options, which are not parsed as YAML."""

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
    """Return the values of the given options by dotted setting, in the form that `load_sweep` takes.

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
