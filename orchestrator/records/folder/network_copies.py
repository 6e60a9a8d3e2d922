"""Copies of the networks' files in the folder of a sweep: a copy with each session, and its hash in the journal."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from orchestrator.config.network_files import Finder, NetworkSource, relative_path
from orchestrator.config.settings_text import read_text
from orchestrator.errors import ConfigError, Problem
from orchestrator.files.contained_paths import contained
from orchestrator.files.known_code import is_known_code
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.records.history import History

__all__ = ["copy_name", "hashes_as_identity", "recorded_files"]

_KEY = "network file "
_DIGITS = 12


def hashes_as_identity(hashes: Mapping[str, str]) -> dict[str, str]:
    """Return hashes of files as entries of a sweep's identity.

    Args:
        hashes: SHA-256 by name of the file.
    """
    return {f"{_KEY}{name}": sha256 for name, sha256 in hashes.items()}


def copy_name(name: str, sha256: str) -> Path:
    """Return the path of a copy in the folder of a session: as the sweep names it, where that stays in the folder.

    Args:
        name: Name of the file before the colon.
        sha256: Hash of its text.
    """
    path = relative_path(name)
    if path.is_absolute() or path.parts[0].startswith("~") or ".." in path.parts:
        return Path(f"{sha256[:_DIGITS]}_{path.name}")
    return path


def recorded_files(folder: SweepFolder, history: History, *, allow_code: bool) -> Finder:
    """Return the finder of the files that the newest session of a sweep recorded.

    Args:
        folder: Folder of the sweep.
        history: State of the sweep.
        allow_code: True to find files that the user has not run before, too; they are withheld otherwise.
    """
    session = folder.session(history.sessions)

    def find(name: str) -> NetworkSource | None:
        sha256 = (history.identity or {}).get(f"{_KEY}{name}")
        if not isinstance(sha256, str) or not (allow_code or is_known_code(sha256)):
            return None
        path = contained(folder.path, session / copy_name(name, sha256), "file of a network")
        try:
            text = read_text(path)
        except (OSError, ValueError) as error:
            raise ConfigError([Problem(name, f"its copy {path} cannot be read: {error}")]) from None
        if hashlib.sha256(text.encode()).hexdigest() != sha256:
            raise ConfigError([Problem(name, f"its copy {path} is not the file that the sweep was begun with")])
        return NetworkSource(name, text, path)

    return find
