"""Rejection of configurations that are not worth a trial.

In Optuna a rejected configuration is a failed trial with the reason in its user attribute `rejected`; samplers see it
as a poor trial (`learnable`). If they ignored it, as they ignore failed trials, TPE would keep proposing from the
rejected part of the space where the best values lie at its border (benchmarks/results/search/search_quality.md).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from orchestrator.errors import SpaceExhaustedError
from orchestrator.records.ledger import Ledger, count_rejected
from orchestrator.search.proposals.trial_filter import Rejection
from orchestrator.search.samplers.learnable import REJECTED
from orchestrator.search.samplers.samplers import has_tried_all
from orchestrator.search.write_behind import flush_study
from search_spaces import setting_of

_ATTEMPT = "attempt"  # user attribute of enqueued values that were rejected with what the sampler added
_MOST_ATTEMPTS = 10
_PATIENCE_S = 5.0
_WAIT_FACTOR = 1.5
_LONGEST_WAIT_S = 30.0


def reject(
    study: optuna.Study, ledger: Ledger, trial: optuna.Trial, params: Mapping[str, Any], rejection: Rejection
) -> None:
    """Record a rejection in the ledger first, which is never behind, and then in the study.

    Where values were enqueued, the database has them before, and after it those that are enqueued again: asked again
    after a kill in between, the study returns the same, which are rejected again.

    Args:
        study: Study of the sweep.
        ledger: Ledger of the sweep.
        trial: Trial that the study proposed.
        params: Values by searched name.
        rejection: Reason of the rejection.
    """
    stored = study._storage.get_trial(trial._trial_id)
    wanted = stored.system_attrs.get("fixed_params", {})
    if wanted:
        flush_study(study)
    ledger.trial_rejected(trial.number, params, rejection.rule, rejection.text)
    trial.set_user_attr(REJECTED, f"{rejection.rule}: {rejection.text}")
    _queue_again(study, stored, wanted, rejection)
    study.tell(trial, state=TrialState.FAIL)
    if wanted:
        flush_study(study)


def _queue_again(study: optuna.Study, stored: FrozenTrial, wanted: Mapping[str, Any], rejection: Rejection) -> None:
    """Enqueue values again that were rejected for what the sampler had added to them, and may add otherwise."""
    if stored.params.keys() <= wanted.keys() or has_tried_all(study, wanted):
        return
    attempt = stored.user_attrs.get(_ATTEMPT, 1)
    if wanted and attempt < _MOST_ATTEMPTS and rejection.rule not in map(setting_of, wanted):
        kept = {key: value for key, value in stored.user_attrs.items() if key != REJECTED}
        study.enqueue_trial(dict(wanted), user_attrs={**kept, _ATTEMPT: attempt + 1})


class RejectionStreak:
    """Consecutive rejections within one search for a configuration.

    Args:
        say: Called with the state of the streak, first after seconds, then at growing intervals; None for no output.
    """

    def __init__(self, say: Callable[[str], None] | None = None) -> None:
        self._say = say
        self._wait_s = _PATIENCE_S
        self._due_s = time.monotonic() + self._wait_s
        self._rules: Counter[str] = Counter()
        self._nearest: dict[str, Rejection] = {}  # to a limit, by rule
        self._last: Rejection | None = None

    def note(self, rejection: Rejection) -> None:
        """Count a rejection."""
        self._rules[rejection.rule] += 1
        self._last = rejection
        if rejection.counted is not None:
            nearest = self._nearest.setdefault(rejection.rule, rejection)
            if nearest.counted is not None and rejection.counted < nearest.counted:
                self._nearest[rejection.rule] = rejection
        if self._say is not None and time.monotonic() >= self._due_s:
            self._say(f"Looking for a configuration that is worth a trial: {self._summary()}")
            self._wait_s = min(_LONGEST_WAIT_S, self._wait_s * _WAIT_FACTOR)
            self._due_s = time.monotonic() + self._wait_s

    def exhausted(self) -> SpaceExhaustedError:
        """Return the error of a search in which every configuration was rejected."""
        last = self._last
        assert last is not None, "at least one was rejected"
        return SpaceExhaustedError(
            f"{self._summary()} The last one, {last.rule}: {last.text}. Widen what is searched, or the limits"
        )

    def _summary(self) -> str:
        count = self._rules.total()
        nearest = "".join(f" Nearest to limits.{rule}: {found.text}." for rule, found in self._nearest.items())
        counted = f"{count:,} configurations in a row were" if count > 1 else "1 configuration was"
        return f"{counted} rejected: {count_rejected(self._rules)}.{nearest}"
