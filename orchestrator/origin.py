"""What a session of a sweep was begun with, as files: enough to repeat it, and free of passwords."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from orchestrator.config.schema import SweepConfig
from orchestrator.config.settings_text import as_yaml, read_text
from orchestrator.provenance import git_diff
from orchestrator.recorded import recorded, written
from orchestrator.whole_files import written_whole

_SECRETS = ("PASSWORD", "TOKEN", "SECRET", "CREDENTIAL", "API_KEY", "PRIVATE_KEY")
_SHORTEST_SECRET = 6
_IN_ADDRESS = re.compile(r"(://[^\s/:@'\"]*:)[^\s/@'\"]+(?=@)")
_IN_QUERY = re.compile(r"((?:ssl)?password=)[^\s&'\"]+", re.IGNORECASE)


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
        "sweep.yaml": _yaml(written(config)) if text is None else text,
        "config.yaml": _yaml(recorded(config)),
        "dataset.json": manifest,
        "packages.txt": _packages(),
        "git.diff": git_diff(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, content in contents.items():
        if content:
            paths.append(folder / name)
            with written_whole(paths[-1]) as partial:
                partial.write_text(without_secrets(content), encoding="utf-8")
    return paths


def without_secrets(text: str) -> str:
    """The text with stars for passwords in addresses, and for what the environment holds as a secret."""
    text = _IN_QUERY.sub(r"\1***", _IN_ADDRESS.sub(r"\1***", text))
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST_SECRET and any(word in name.upper() for word in _SECRETS):
            text = text.replace(value, "***")
    return text


def _yaml(content: Mapping[str, Any]) -> str:
    return as_yaml(content)


def _packages() -> str:
    found = {f"{distribution.metadata['Name']}=={distribution.version}" for distribution in distributions()}
    return "\n".join(sorted(found, key=str.lower)) + "\n"
