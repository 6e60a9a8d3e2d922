"""The first event of a journal, made anew from what else the folder of the sweep holds."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.config import load_sweep
from orchestrator.errors import ConfigError, JournalError
from orchestrator.records.events import FORMAT, Event, SweepResumed, SweepStarted
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.records.stored_config import complete_settings

_UID = re.compile(r"[0-9a-f]{32}")


def remade_first_event(folder: SweepFolder, later: Sequence[Event], *, sealed: bool) -> tuple[SweepStarted, str]:
    """Make the first event of a journal that has lost it.

    Args:
        folder: Folder of the sweep.
        later: Sound events, in order.
        sealed: Whether all of them have checksums.

    Returns:
        The event, and what is not as it was, in words.

    Raises:
        JournalError: Nothing says with which settings the sweep began.
    """
    uid, said = _uid_in_mlflow(folder), []
    if uid is None:
        uid = uuid.uuid4().hex
        said.append("its runs in MLflow are begun anew")
    resumed = next((event for event in later if isinstance(event, SweepResumed)), None)
    if resumed is not None:
        source, config, facts, identity = "a later session", resumed.config, resumed.facts, resumed.identity
    else:
        source, config = _settings_of_a_session(folder)
        facts, identity = {}, {}
        said.append("what decided its results is not known, so that only `resume --allow-changed` goes on with it")
    event = SweepStarted(
        time=later[0].time if later else 0.0,
        name=folder.name,
        uid=uid,
        config=config,
        facts=facts,
        identity=identity,
        format=FORMAT if sealed else 0,
    )
    return event, "; ".join([f"the start of the sweep was lost and is made anew from {source}", *said])


def _uid_in_mlflow(folder: SweepFolder) -> str | None:
    """The identifier of the sweep as the bookmark of what MLflow has knows it."""
    try:
        uid = json.loads(folder.journal.with_name("tracked.json").read_bytes())["memory"]["uid"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return uid if isinstance(uid, str) and _UID.fullmatch(uid) else None


def _settings_of_a_session(folder: SweepFolder) -> tuple[str, Mapping[str, Any]]:
    for file in sorted(folder.path.glob("sessions/*/config.yaml")):
        try:
            config = load_sweep(file)
        except (OSError, ConfigError, RecursionError):
            continue  # the next session may have a sound one
        return str(file.relative_to(folder.path)), complete_settings(config)
    raise JournalError(
        folder.journal,
        "cannot be repaired: the start of the sweep is lost, no later session has begun, and no sessions/*/config.yaml "
        "is sound. Put that file back from a backup, or remove the folder",
    )
