"""First event of a journal, rebuilt from other files in the folder of the sweep."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.config import load_sweep
from orchestrator.config.network_files import network_files_from, no_files
from orchestrator.config.validation.training_rules import unused_accepted
from orchestrator.errors import ConfigError, JournalError
from orchestrator.records.events import FORMAT, Event, SweepResumed, SweepStarted
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.records.settings.stored_config import complete_settings

_UID = re.compile(r"[0-9a-f]{32}")


def rebuild_first_event(folder: SweepFolder, later: Sequence[Event], *, sealed: bool) -> tuple[SweepStarted, str]:
    """Rebuild the first event of a journal that has lost it.

    Args:
        folder: Folder of the sweep.
        later: Intact events, in order.
        sealed: Whether all of them have checksums.

    Returns:
        The event, and a notice about differences from the lost one.

    Raises:
        JournalError: No file in the folder holds the settings with which the sweep began.
    """
    uid, notices = _uid_in_mlflow(folder), []
    if uid is None:
        uid = uuid.uuid4().hex
        notices.append("its runs in MLflow are started again")
    resumed = next((event for event in later if isinstance(event, SweepResumed)), None)
    if resumed is not None:
        source, config, facts, identity = "a later session", resumed.config, resumed.facts, resumed.identity
    else:
        source, config = _settings_of_a_session(folder)
        facts, identity = {}, {}
        notices.append("the settings that decided its results are unknown: only `resume --allow-changed` continues it")
    event = SweepStarted(
        time=later[0].time if later else 0.0,
        name=folder.name,
        uid=uid,
        config=config,
        facts=facts,
        identity=identity,
        format=FORMAT if sealed else 0,
    )
    return event, "; ".join([f"the start of the sweep was lost and is rebuilt from {source}", *notices])


def _uid_in_mlflow(folder: SweepFolder) -> str | None:
    """Return the identifier of the sweep in `tracked.json`, the state of the export to MLflow; None without one."""
    try:
        uid = json.loads(folder.journal.with_name("tracked.json").read_bytes())["memory"]["uid"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return uid if isinstance(uid, str) and _UID.fullmatch(uid) else None


def _settings_of_a_session(folder: SweepFolder) -> tuple[str, Mapping[str, Any]]:
    for file in sorted(folder.path.glob("sessions/*/config.yaml")):
        try:
            with network_files_from(no_files), unused_accepted():
                config = load_sweep(file)
        except (OSError, ConfigError, RecursionError):
            continue  # the next session may have a sound one
        return str(file.relative_to(folder.path)), complete_settings(config)
    raise JournalError(
        folder.journal,
        "cannot be repaired: the start of the sweep is lost, no later session has begun, and no sessions/*/config.yaml "
        "is sound. Put that file back from a backup, or remove the folder",
    )
