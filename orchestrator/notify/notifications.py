"""Notifications of a session: what is worth one, as JSON with a line for people, sent to the user's webhooks."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from orchestrator.config.sections.objective import ObjectiveConfig
from orchestrator.config.sections.tracking import NotifyConfig, notify_address
from orchestrator.errors import ConfigError, Problem
from orchestrator.notify.webhook import Webhook
from orchestrator.records.ledger import Ledger, TrialStatus
from orchestrator.uris import MASK, remember_secret_address, without_secrets

_DRAIN_S = 5.0
_BEST_EVERY_S = 60.0
_MOST_FAILURES = 10  # notifications of failed trials in a session; a space in which all fail would send thousands


class Notifications:
    """Notifications of one session; used by the driver's main thread, which they never keep waiting.

    Args:
        config: Addresses and events.
        ledger: Ledger of the sweep.
        name: Name of the sweep.
        objective: First objective.
        say: Called with a line for the user.
        webhook: Returns the webhook of an address.

    Raises:
        ConfigError: An address stands in an environment variable that is not set.
    """

    def __init__(
        self,
        config: NotifyConfig,
        ledger: Ledger,
        *,
        name: str,
        objective: ObjectiveConfig,
        say: Callable[[str], None],
        webhook: Callable[[str], Webhook] = Webhook,
    ) -> None:
        self._events = frozenset(config.events)
        self._ledger = ledger
        self._name = name
        self._objective = objective
        self._say = say
        self._addresses, self._webhook = known_addresses(config, say), webhook
        self._webhooks: list[Webhook] = []
        totals = ledger.totals()
        self._best, self._best_at = totals.best, -_BEST_EVERY_S
        self._ended, self._failures = ledger.count_ended(), 0
        self._limit = ""

    def start(self, trials: int) -> None:
        """Start the threads that deliver, and notify of the start of the session.

        Args:
            trials: Number of trials of the sweep.
        """
        self._webhooks = [self._webhook(url) for url in self._addresses]
        resumed = f", {self._ended} done before" if self._ended else ""
        self._send("sweep_started", f"has started: {trials} trials{resumed}", trials=trials, done=self._ended)

    def poll(self) -> None:
        """Notify of what has happened since the last call; returns at once."""
        if not self._webhooks:
            return
        self._poll_failures()
        totals = self._ledger.totals()
        now = time.monotonic()
        if totals.best is not None and totals.best != self._best and now - self._best_at >= _BEST_EVERY_S:
            self._best, self._best_at = totals.best, now
            metric = self._objective.metric
            self._send(
                "new_best",
                f"new best {metric} {totals.best:.4g} in trial {totals.best_trial}",
                metric=metric,
                value=totals.best,
                trial=totals.best_trial,
            )
        if self._ledger.ended_by and self._ledger.ended_by != self._limit:
            self._limit = self._ledger.ended_by
            self._send("budget_spent", self._limit, reason=self._limit)

    def close(self, status: TrialStatus) -> str:
        """Notify of the end of the session, and wait a few seconds for the deliveries.

        Args:
            status: Status of the sweep.

        Returns:
            What could not be delivered, in one line; empty for nothing.
        """
        self.poll()
        totals = self._ledger.totals()
        best = "" if totals.best is None else f", best {self._objective.metric} {totals.best:.4g}"
        self._send(
            f"sweep_{status}",
            f"{status}: {self._ledger.count_ended()} trials done{best}",
            status=str(status),
            done=self._ledger.count_ended(),
            metric=self._objective.metric,
            value=totals.best,
            trial=totals.best_trial,
        )
        deadline_s = time.monotonic() + _DRAIN_S
        return ". ".join(filter(None, (webhook.close(deadline_s) for webhook in self._webhooks)))

    def _poll_failures(self) -> None:
        ended = self._ledger.ended_since(self._ended)
        self._ended += len(ended)
        for trial in ended:
            if trial.status not in (TrialStatus.FAILED, TrialStatus.DIVERGED):
                continue
            self._failures += 1
            if self._failures > _MOST_FAILURES:
                continue
            reason = next(iter(trial.reason.splitlines()), "")
            last = ". Further ones are not notified" if self._failures == _MOST_FAILURES else ""
            text = f"trial {trial.number} {trial.status}: {reason}{last}"
            self._send("trial_failed", text, trial=trial.number, status=str(trial.status), reason=reason)

    def _send(self, event: str, text: str, **facts: Any) -> None:
        """Queue a message; `text` and `content` are what chat services show."""
        if event not in self._events:
            return
        line = without_secrets(f"Sweep {self._name}: {text}")
        plain = {key: without_secrets(value) if isinstance(value, str) else value for key, value in facts.items()}
        head = {"event": event, "sweep": self._name, "session": self._ledger.sessions, "time": time.time()}
        for webhook in self._webhooks:
            webhook.post({**head, **plain, "text": line, "content": line})


def known_addresses(config: NotifyConfig, say: Callable[[str], None]) -> list[str]:
    """Return the addresses of a session; one that only the records of the sweep hold, without its secret, is left out.

    Args:
        config: Addresses, or the names of environment variables that hold them.
        say: Called with a line for the user about each that is left out.

    Raises:
        ConfigError: A variable is not set, or holds no address.
    """
    found, problems = [], []
    for written in config.urls:
        url = os.environ.get(written[1:], "") if written.startswith("$") else written
        if MASK in url:
            say(
                f"Notifications to {url} are off: the address is not stored. Give it with --set notify=URL, or write "
                "it as the name of an environment variable, notify: $NAME"
            )
            continue
        fault = notify_address(url)
        if written.startswith("$") and (not url or fault):
            rule = fault if url else "the environment variable is not set. Export it first"
            problems.append(Problem("notify", f"{written}: {rule}"))
            continue
        remember_secret_address(url)
        found.append(url)
    if problems:
        raise ConfigError(problems)
    return found
