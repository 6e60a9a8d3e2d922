"""Snapshot of a session: files that suffice to repeat it, without passwords."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from orchestrator.config.network_files import NetworkSource
from orchestrator.config.settings_text import as_yaml, read_text
from orchestrator.files.atomic_files import atomic_file
from orchestrator.records.folder.network_copies import copy_name
from orchestrator.records.provenance import git_diff
from orchestrator.uris import without_secrets


def write_session_snapshot(
    folder: Path,
    settings: Mapping[str, Any],
    manifest: str,
    *,
    non_default: Mapping[str, Any],
    sweep_file: Path | None = None,
    network_files: Sequence[NetworkSource] = (),
) -> list[Path]:
    """Write `sweep.yaml`, `config.yaml`, `dataset.json`, `packages.txt` and, in a checkout with changes, `git.diff`.

    Files of networks are written beside them, where `sweep.yaml` names them.

    Args:
        folder: Folder of the session; created where it is missing.
        settings: All settings of the sweep.
        manifest: Manifest of the dataset.
        non_default: Settings that differ from the defaults.
        sweep_file: File that the user has written; None writes `non_default` in its place.
        network_files: Files of the sweep's networks.

    Returns:
        The written files.
    """
    contents = {
        "sweep.yaml": as_yaml(non_default) if sweep_file is None else read_text(sweep_file),
        "config.yaml": as_yaml(settings),
        "dataset.json": manifest,
        "packages.txt": _packages(),
        "git.diff": git_diff(),
    }
    contents |= {str(copy_name(source.name, source.sha256)): source.text for source in network_files}
    paths = []
    for name, content in contents.items():
        if content:
            paths.append(folder / name)
            paths[-1].parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(paths[-1]) as partial:
                partial.write_text(without_secrets(content), encoding="utf-8")
    return paths


def _packages() -> str:
    found = {f"{distribution.metadata['Name']}=={distribution.version}" for distribution in distributions()}
    return "\n".join(sorted(found, key=str.lower)) + "\n"
