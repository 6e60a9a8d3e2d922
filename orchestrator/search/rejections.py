"""What becomes of a configuration that is not worth a trial.

In Optuna it is a failed trial with the reason in its user attribute `rejected`. Samplers pass over failed trials, and
should: a pruned or infeasible one would count among the random ones that a model waits for, and among those of which
the best few are modelled, although nothing was learnt of the objective. What is proposed instead is drawn as if the
rejected part of the space were not there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.trial import TrialState

from orchestrator.errors import SpaceExhaustedError
from orchestrator.ledger import Ledger, count_rejected
from orchestrator.validity import Rejection

REJECTED = "rejected"
"""User attribute of a rejected trial in the study: the reason."""


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
    study.tell(trial, state=TrialState.FAIL)


def say_exhausted(ledger: Ledger, count: int) -> SpaceExhaustedError:
    """The error of a search that proposes nothing valid."""
    last = ledger.rejected()[-count:]
    counts = count_rejected(Counter(trial.rule for trial in last))
    return SpaceExhaustedError(
        f"{count:,} configurations in a row were rejected: {counts}. The last one, {last[-1].rule}: {last[-1].reason}. "
        "Widen what is searched, or the limits"
    )
