"""What a session of a sweep was begun with, as files: enough to repeat it, and free of passwords."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from orchestrator.config.settings_text import as_yaml, read_text
from orchestrator.config.sweep import SweepConfig
from orchestrator.files.atomic_files import atomic_file
from orchestrator.records.provenance import git_diff
from orchestrator.records.stored_config import complete_settings, non_default_settings
from orchestrator.uris import without_secrets


def write_origin(folder: Path, config: SweepConfig, manifest: str, sweep_file: Path | None = None) -> list[Path]:
    """Writes `sweep.yaml`, `config.yaml`, `dataset.json`, `packages.txt` and, in a checkout with changes, `git.diff`.

    Args:
        folder: Of the session; made when absent.
        config: Of the sweep; `config.yaml` has every setting of it.
        manifest: Of its dataset.
        sweep_file: What the user has written; None writes what differs from the defaults.
    """
    text = None if sweep_file is None else read_text(sweep_file)
    contents = {
        "sweep.yaml": _yaml(non_default_settings(config)) if text is None else text,
        "config.yaml": _yaml(complete_settings(config)),
        "dataset.json": manifest,
        "packages.txt": _packages(),
        "git.diff": git_diff(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, content in contents.items():
        if content:
            paths.append(folder / name)
            with atomic_file(paths[-1]) as partial:
                partial.write_text(without_secrets(content), encoding="utf-8")
    return paths


def _yaml(content: Mapping[str, Any]) -> str:
    return as_yaml(content)


def _packages() -> str:
    found = {f"{distribution.metadata['Name']}=={distribution.version}" for distribution in distributions()}
    return "\n".join(sorted(found, key=str.lower)) + "\n"
