"""Notifications of a sweep, and secrets that no record of it may hold."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator import load_sweep
from orchestrator.config.sections.objective import ObjectiveConfig
from orchestrator.config.sections.tracking import NotifyConfig
from orchestrator.errors import ConfigError
from orchestrator.notify import notifications as module
from orchestrator.notify.notifications import Notifications
from orchestrator.notify.webhook import Webhook
from orchestrator.records.journal import Journal
from orchestrator.records.ledger import Ledger, TrialStatus
from orchestrator.records.settings.stored_config import complete_settings, non_default_settings
from orchestrator.uris import without_secrets

TOKEN = "XXXXYYYYZZZZ12345"
URL = f"https://hooks.example.com/services/T01/{TOKEN}"
SWEEP: dict[str, Any] = {
    "name": "s",
    "dataset": {"name": "digits"},
    "model": {"name": "conv_resnet26_small"},
    "search": {"lr": {"type": "float", "low": 0.1, "high": 1.0}},
    "try_first": [],
}


class Sent(Webhook):
    """Webhook that keeps its messages in place of sending them."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.messages: list[Mapping[str, Any]] = []

    def post(self, message: Mapping[str, Any]) -> None:
        self.messages.append(message)

    def close(self, deadline_s: float) -> str:
        assert deadline_s - time.monotonic() <= 5.0
        return f"lost by {self.url}"


def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **config: Any) -> tuple[Ledger, Notifications, Sent]:
    monkeypatch.setattr(module, "_BEST_EVERY_S", 0.0)
    ledger = Ledger(Journal(tmp_path / "journal.jsonl"))
    settings = {**SWEEP, "objective": {"metric": "val/top1", "mode": "max"}, "trials": 3, "try_first": None}
    ledger.sweep_started("s", settings, {}, {})
    sent: list[Sent] = []
    found = Notifications(
        NotifyConfig.model_validate({"urls": [URL], **config}),
        ledger,
        name="s",
        objective=ObjectiveConfig(),
        say=lambda _: None,
        webhook=lambda url: sent.append(Sent(url)) or sent[-1],  # type: ignore[func-returns-value]
    )
    found.start(3)
    return ledger, found, sent[0]


def test_a_session_notifies_of_start_best_failure_budget_and_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, found, sent = session(tmp_path, monkeypatch)
    ledger.trial_started(0, "a", {}, {})
    ledger.trial_reported(0, 1, {"val/top1": 0.5})
    found.poll()
    found.poll()
    ledger.trial_reported(0, 2, {"val/top1": 0.4})
    found.poll()
    ledger.trial_reported(0, 3, {"val/top1": 0.75})
    ledger.trial_ended(0, TrialStatus.FAILED, f"no room\nat postgresql://me:hush-hush@db/x and {URL}")
    found.poll()
    ledger.budget_spent("budget.wall_clock is spent")
    found.poll()
    assert found.close(TrialStatus.FINISHED) == f"lost by {URL}"
    events = [(message["event"], message["text"]) for message in sent.messages]
    assert events == [
        ("sweep_started", "Sweep s: has started: 3 trials"),
        ("new_best", "Sweep s: new best val/top1 0.5 in trial 0"),
        ("trial_failed", "Sweep s: trial 0 failed: no room"),
        ("new_best", "Sweep s: new best val/top1 0.75 in trial 0"),
        ("budget_spent", "Sweep s: budget.wall_clock is spent"),
        ("sweep_finished", "Sweep s: finished: 1 trials done, best val/top1 0.75"),
    ]
    best = sent.messages[3]
    assert (best["metric"], best["value"], best["trial"], best["session"]) == ("val/top1", 0.75, 0, 1)
    assert abs(best["time"] - time.time()) < 60
    assert TOKEN not in json.dumps(sent.messages)


def test_only_chosen_events_are_notified_and_failures_are_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, found, sent = session(tmp_path, monkeypatch, events=["trial_failed", "sweep_interrupted"])
    for number in range(15):
        ledger.trial_started(number, str(number), {}, {})
        ledger.trial_ended(number, TrialStatus.DIVERGED, "the loss is nan")
    found.poll()
    found.close(TrialStatus.INTERRUPTED)
    assert [message["event"] for message in sent.messages] == ["trial_failed"] * 10 + ["sweep_interrupted"]
    assert sent.messages[9]["text"].endswith("Further ones are not notified")


@pytest.mark.parametrize("written", [URL, [URL], {"urls": URL}, {"urls": [URL], "events": ["new_best"]}])
def test_addresses_are_written_in_any_form_and_recorded_without_their_token(written: Any) -> None:
    config = load_sweep({**SWEEP, "notify": written})
    assert config.notify.urls == (URL,)
    for settings in (complete_settings(config), non_default_settings(config)):
        assert settings["notify"]["urls"] == ["https://hooks.example.com/***"]
        assert TOKEN not in json.dumps(settings)
    assert TOKEN not in without_secrets(f"Max retries exceeded with url: /services/T01/{TOKEN} (Caused by ...)")


@pytest.mark.parametrize(
    ("written", "error"),
    [
        ("ftp://example.com/x", "notify.urls: .*is no address of a webhook. Use https://host/path, or \\$NAME"),
        ("example.com", "is no address of a webhook"),
        ("https://me:pw@example.com/x", "holds a user or password before the host"),
        ({"urls": URL, "events": ["new_bets"]}, "unknown event 'new_bets'. Did you mean 'new_best'?"),
        ({"url": URL}, "notify.url: unknown"),
        (3, "notify"),
    ],
)
def test_a_wrong_address_or_event_is_one_error(written: Any, error: str) -> None:
    with pytest.raises(ConfigError, match=error) as caught:
        load_sweep({**SWEEP, "notify": written})
    assert TOKEN not in str(caught.value)


def known(config: NotifyConfig, said: list[str]) -> list[str]:
    return module.known_addresses(config, said.append)


def test_an_address_in_a_variable_is_taken_from_there_and_must_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_sweep({**SWEEP, "notify": "$TEAM_HOOK"}).notify
    assert complete_settings(load_sweep({**SWEEP, "notify": "$TEAM_HOOK"}))["notify"]["urls"] == ["$TEAM_HOOK"]
    monkeypatch.setenv("TEAM_HOOK", URL)
    assert known(config, []) == [URL]
    monkeypatch.setenv("TEAM_HOOK", "nowhere")
    with pytest.raises(ConfigError, match=r"notify: \$TEAM_HOOK: is no address of a webhook"):
        known(config, [])
    monkeypatch.delenv("TEAM_HOOK")
    with pytest.raises(ConfigError, match=r"notify: \$TEAM_HOOK: the environment variable is not set"):
        known(config, [])


def test_a_resumed_sweep_without_its_address_says_so() -> None:
    said: list[str] = []
    stored = complete_settings(load_sweep({**SWEEP, "notify": URL}))
    assert known(NotifyConfig.model_validate(stored["notify"]), said) == []
    assert said[0].startswith("Notifications to https://hooks.example.com/*** are off")
