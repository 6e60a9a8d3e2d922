"""Events with default values for tests, and journals written or changed with valid checksums."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from orchestrator.records.events import EVENTS, Event
from orchestrator.records.lines import seal

UID = "0123456789abcdef" * 2
_REST: dict[str, dict[str, Any]] = {
    "sweep_started": {"name": "s", "uid": UID, "config": {}, "facts": {}, "identity": {}, "format": 1},
    "sweep_resumed": {"config": {}, "facts": {}, "identity": {}},
    "lanes_planned": {"lanes": 1},
    "trial_started": {"tune_id": "tune", "params": {}, "config": {}},
    "trial_resumed": {"tune_id": "tune"},
    "trial_reported": {"epoch": 1, "metrics": {}},
    "trial_progressed": {"epoch": 1, "step": 0, "metrics": {}},
    "trial_ended": {"status": "finished"},
    "sweep_ended": {"status": "finished", "summary": {}, "files": ()},
}


def an_event(kind: str, time: float = 0.0, **content: Any) -> Event:
    """Build an event of a kind; values that are not given have defaults."""
    return EVENTS.validate_python({**_REST.get(kind, {}), "event": kind, "time": float(time), **content}, strict=False)


def write_sealed(path: Path, events: Iterable[Event]) -> None:
    """Write a whole journal."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(seal(event, number) for number, event in enumerate(events, start=1)))


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the events of a journal, as plain data, and renew their checksums."""
    from orchestrator.records.journal import read_events
    from orchestrator.records.lines import content_of

    events = []
    for event, _ in list(read_events(path)):
        content = content_of(event)
        change(content)
        events.append(EVENTS.validate_python(content, strict=False))
    write_sealed(path, events)
