"""What becomes of a configuration that is not worth a trial.

In Optuna it is a failed trial with the reason in its user attribute `rejected`, and samplers are shown it as a poor one
(`learnable`). Were it passed over, as failed trials are, TPE would propose from the rejected part of the space again
and again where the best values lie at its border (benchmarks/results/search_quality.md).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import optuna
from optuna.trial import TrialState

from orchestrator.errors import SpaceExhaustedError
from orchestrator.records.ledger import Ledger, count_rejected
from orchestrator.search.samplers.learnable import REJECTED
from orchestrator.search.trial_filter import Rejection
from search_spaces import setting_of

_ATTEMPT = "attempt"  # user attribute of values that were to be tried first and were rejected with what was added
_MOST_ATTEMPTS = 10
_PATIENCE_S = 5.0
_WAIT_FACTOR = 1.5
_LONGEST_WAIT_S = 30.0


def reject(
    study: optuna.Study, ledger: Ledger, trial: optuna.Trial, params: Mapping[str, Any], rejection: Rejection
) -> None:
    """Records a rejection in the ledger first, which is never behind, and in the study.

    Args:
        study: Of the sweep.
        ledger: Of the sweep.
        trial: As the study proposed it.
        params: Its searched values.
        rejection: Why it is not tried.
    """
    ledger.trial_rejected(trial.number, params, rejection.rule, rejection.text)
    trial.set_user_attr(REJECTED, f"{rejection.rule}: {rejection.text}")
    _queue_again(study, trial, rejection)
    study.tell(trial, state=TrialState.FAIL)


def _queue_again(study: optuna.Study, trial: optuna.Trial, rejection: Rejection) -> None:
    """Gives values that were to be tried first another chance where the sampler's addition to them was at fault."""
    asked = study._storage.get_trial(trial._trial_id)
    wanted = asked.system_attrs.get("fixed_params", {})
    attempt = asked.user_attrs.get(_ATTEMPT, 1)
    if wanted and attempt < _MOST_ATTEMPTS and rejection.rule not in map(setting_of, wanted):
        kept = {key: value for key, value in asked.user_attrs.items() if key != REJECTED}
        study.enqueue_trial(wanted, user_attrs={**kept, _ATTEMPT: attempt + 1})


class RejectedRow:
    """Configurations that were rejected one after another, with none between that was worth a trial.

    Args:
        say: Told how the row stands, first after seconds and then ever more seldom; None tells nobody.
    """

    def __init__(self, say: Callable[[str], None] | None = None) -> None:
        self._say = say
        self._wait_s = _PATIENCE_S
        self._due_s = time.monotonic() + self._wait_s
        self._rules: Counter[str] = Counter()
        self._nearest: dict[str, Rejection] = {}  # to a limit, by rule
        self._last: Rejection | None = None

    def note(self, rejection: Rejection) -> None:
        """Counts one more."""
        self._rules[rejection.rule] += 1
        self._last = rejection
        if rejection.counted is not None:
            nearest = self._nearest.setdefault(rejection.rule, rejection)
            if nearest.counted is not None and rejection.counted < nearest.counted:
                self._nearest[rejection.rule] = rejection
        if self._say is not None and time.monotonic() >= self._due_s:
            self._say(f"Looking for a configuration that is worth a trial: {self._standing()}")
            self._wait_s = min(_LONGEST_WAIT_S, self._wait_s * _WAIT_FACTOR)
            self._due_s = time.monotonic() + self._wait_s

    def exhausted(self) -> SpaceExhaustedError:
        """The error of a search that proposes nothing valid."""
        last = self._last
        assert last is not None, "at least one was rejected"
        return SpaceExhaustedError(
            f"{self._standing()} The last one, {last.rule}: {last.text}. Widen what is searched, or the limits"
        )

    def _standing(self) -> str:
        count = self._rules.total()
        nearest = "".join(f" Nearest to limits.{rule}: {found.text}." for rule, found in self._nearest.items())
        counted = f"{count:,} configurations in a row were" if count > 1 else "1 configuration was"
        return f"{counted} rejected: {count_rejected(self._rules)}.{nearest}"
