"""Addresses in the journal of a sweep: their form after the folder has moved, and checks before they are used."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import ConfigError, Problem, UnsafePathError
from orchestrator.files.contained_paths import contained
from orchestrator.files.sqlite_files import sqlite_file, sqlite_uri
from orchestrator.records.folder.known_servers import is_known, note_server
from orchestrator.server_addresses import embedded_study_uri, embedded_uri
from orchestrator.uris import without_password

if TYPE_CHECKING:
    from orchestrator.results.sweep_result import SweepResult

_OPTIONS = {
    "tracking": "`--tracking-uri {}`",
    "storage": "`--storage-uri {0}`, or `--set storage.uri={0}` for `resume`",
}
_WHAT = {"tracking": "MLflow", "storage": "the study"}


def recorded_address(section: str, config: Mapping[str, Any], runs_dir: Path) -> str:
    """Return the address of MLflow or of the study, from the journal of a sweep.

    Args:
        section: `tracking` or `storage`.
        config: Recorded settings of the sweep.
        runs_dir: Current folder of all results; a database within it has moved with it.
    """
    uri = (moved_config(config, runs_dir).get(section) or {}).get("uri")
    return str(uri) if uri else {"tracking": embedded_uri, "storage": embedded_study_uri}[section](runs_dir)


def moved_config(config: Mapping[str, Any], runs_dir: Path) -> dict[str, Any]:
    """Return recorded settings with the addresses adapted to the current folder of results.

    Args:
        config: Recorded settings of a sweep.
        runs_dir: Current folder of all results.
    """
    content, before = dict(config), config.get("runs_dir")
    content["runs_dir"] = str(runs_dir)
    if not isinstance(before, str) or Path(before) == runs_dir:
        return content
    for section in ("tracking", "storage", "dataset"):
        settings = content.get(section)
        if isinstance(settings, Mapping) and isinstance(settings.get("uri"), str):
            content[section] = {**settings, "uri": _moved(settings["uri"], Path(before), runs_dir)}
    return content


def require_confirmed(uri: str, runs_dir: Path, *, section: str, sweep: str) -> None:
    """Refuse an address that only a journal names and that this user has not.

    Databases within the folder of results belong to the sweep.

    Args:
        uri: Address to check.
        runs_dir: Folder of all results.
        section: `tracking` or `storage`.
        sweep: Name of the sweep.

    Raises:
        ConfigError: The address is that of a server, or of a file elsewhere, that this user has never named.
    """
    path = sqlite_file(uri)
    if (path is not None and _is_within(runs_dir, path)) or is_known(uri):
        return
    shown = "".join(letter for letter in without_password(uri) if letter.isprintable())
    kind = "a server" if path is None else f"a file outside of {runs_dir}"
    raise ConfigError(
        [
            Problem(
                f"{section}.uri",
                f"the journal names {shown} for {_WHAT[section]}, {kind} that you have not named yourself; it may be "
                f"somebody else's. If it is yours, confirm it with {_OPTIONS[section].format(shown)}",
            )
        ],
        f"sweep '{sweep}'",
    )


def is_shared(uri: str, runs_dir: Path) -> bool:
    """Return whether a copy of the whole folder of results finds its records at the same address.

    Args:
        uri: Address of MLflow, or of the study.
        runs_dir: Folder of all results.
    """
    path = sqlite_file(uri)
    return path is None or not path.is_relative_to(runs_dir)


def confirmed_tracking_uri(result: SweepResult, named: str | None) -> str:
    """Return the address of MLflow for a sweep: the one named by the user, else the one in the journal.

    Args:
        result: Result of the sweep.
        named: Address named by the user in this command; None or empty without one.

    Raises:
        ConfigError: Only the journal names the address.
    """
    if named:
        note_server(named)
        return named
    require_confirmed(result.tracking_uri, result.folder.parent, section="tracking", sweep=result.name)
    return result.tracking_uri


def _is_within(runs_dir: Path, path: Path) -> bool:
    try:
        contained(runs_dir, path)
    except UnsafePathError:
        return False
    return True


def _moved(uri: str, before: Path, now: Path) -> str:
    """Return the new form of an address within the folder of results; return any other as it is."""
    if "://" not in uri:  # a path
        return str(now / Path(uri).relative_to(before)) if Path(uri).is_relative_to(before) else uri
    path = sqlite_file(uri)
    if path is None or not path.is_relative_to(before):
        return uri
    return sqlite_uri(now / path.relative_to(before))
