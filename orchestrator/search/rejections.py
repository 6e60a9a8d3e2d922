"""What becomes of a configuration that is not worth a trial.

In Optuna it is a failed trial with the reason in its user attribute `rejected`, and samplers are shown it as a poor one
(`learnable`). Were it passed over, as failed trials are, TPE would propose from the rejected part of the space again
and again where the best values lie at its border (docs/log.md).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.trial import TrialState

from orchestrator.errors import SpaceExhaustedError
from orchestrator.ledger import Ledger, count_rejected
from orchestrator.search.learnable import REJECTED
from orchestrator.validity import Rejection
from search_spaces import setting_of

_ATTEMPT = "attempt"  # user attribute of values that were to be tried first and were rejected with what was added
_MOST_ATTEMPTS = 10


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


def say_exhausted(ledger: Ledger, count: int) -> SpaceExhaustedError:
    """The error of a search that proposes nothing valid."""
    last = ledger.rejected()[-count:]
    counts = count_rejected(Counter(trial.rule for trial in last))
    return SpaceExhaustedError(
        f"{count:,} configurations in a row were rejected: {counts}. The last one, {last[-1].rule}: {last[-1].reason}. "
        "Widen what is searched, or the limits"
    )
