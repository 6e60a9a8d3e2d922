"""Records of a sweep outside of its folder: runs in MLflow, and notifications."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import Field, Strict, field_validator, model_validator

from orchestrator.config.sections.section import Section, Texts
from orchestrator.errors import did_you_mean
from orchestrator.uris import MASK, remember_secret_address

NotifyEvent = Literal[
    "sweep_started", "sweep_finished", "sweep_failed", "sweep_interrupted", "new_best", "trial_failed", "budget_spent"
]
_EVENTS = get_args(NotifyEvent)
_VARIABLE = re.compile(r"\$[A-Za-z_][A-Za-z0-9_]*")
_MOST_ADDRESSES = 10


class TrackingConfig(Section):
    """MLflow server and experiment of the runs.

    Args:
        uri: MLflow tracking URI; None keeps a database in `runs_dir`.
        experiment: Name of the MLflow experiment of the runs.
    """

    uri: str | None = None
    experiment: str = "spatialsweep"


class NotifyConfig(Section):
    """Webhooks that get a message, as JSON by POST, when something happens. A single address, or a list, is enough.

    Args:
        urls: Addresses, or names of environment variables that hold them, such as `$SLACK_WEBHOOK`.
        events: Events that are notified.
    """

    urls: Texts = Field((), max_length=_MOST_ADDRESSES)
    events: Annotated[tuple[NotifyEvent, ...], Strict(strict=False)] = _EVENTS

    @model_validator(mode="before")
    @classmethod
    def _spell_out(cls, raw: Any) -> Any:
        """Take a single address, or a list of them, for `urls`."""
        written = raw.get("urls") if isinstance(raw, Mapping) else raw
        listed = [written] if isinstance(written, str) else written
        for url in listed if isinstance(listed, list | tuple) else ():
            if isinstance(url, str):
                remember_secret_address(url)
        if isinstance(raw, Mapping):
            return {**raw, "urls": listed} if isinstance(written, str) else raw
        return {"urls": listed} if isinstance(raw, str | list | tuple) else raw

    @field_validator("urls")
    @classmethod
    def _check_urls(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        faults = [fault for url in urls if not _VARIABLE.fullmatch(url) and (fault := notify_address(url))]
        if faults:
            raise ValueError(faults[0])
        return urls

    @field_validator("events", mode="before")
    @classmethod
    def _check_events(cls, events: Any) -> Any:
        for event in events if isinstance(events, list | tuple) else ():
            if isinstance(event, str) and event not in _EVENTS:
                raise ValueError(f"unknown event '{event}'. {did_you_mean(event, _EVENTS)}")
        return events


def notify_address(url: str) -> str:
    """Return what is wrong with the address of a webhook, without repeating it; empty where nothing is."""
    use = "Use https://host/path, or $NAME for an environment variable that holds it"
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        sound = False
    if not sound or re.search(r"[\s\x00-\x1f]", url):
        return f"is no address of a webhook. {use}"
    if "@" in parts.netloc and MASK not in parts.netloc:
        return "holds a user or password before the host, which is not sent. A webhook has its token in the path"
    return ""
