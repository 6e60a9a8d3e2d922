"""Configuration of a sweep as plain data without passwords, for records and output."""

from __future__ import annotations

from typing import Any

from orchestrator.config.sweep import SweepConfig
from orchestrator.files.runs_dir import resolve_runs_dir
from orchestrator.uris import masked, shown_origin, without_password


def complete_settings(config: SweepConfig) -> dict[str, Any]:
    """Return all settings, with the resolved folder of results."""
    content = config.model_dump(mode="json")
    content["runs_dir"] = str(resolve_runs_dir(config.runs_dir))
    return _masked(content)


def non_default_settings(config: SweepConfig) -> dict[str, Any]:
    """Return the settings that differ from the defaults, which are about those the user has written."""
    content = config.model_dump(mode="json", exclude_defaults=True)
    for name, domain in content.get("search", {}).items():
        if "low" in domain:  # a range without its type, which is a default of its class, could not be read again
            content["search"][name] = {"type": config.search[name].type, **domain}
    return _masked(content)


def _masked(content: dict[str, Any]) -> dict[str, Any]:
    for section in ("tracking", "storage", "dataset"):
        if content.get(section, {}).get("uri") is not None:
            content[section]["uri"] = without_password(content[section]["uri"])
    if urls := content.get("notify", {}).get("urls"):
        content["notify"]["urls"] = [url if url.startswith("$") else shown_origin(url) for url in urls]
    return dict(masked(content))
