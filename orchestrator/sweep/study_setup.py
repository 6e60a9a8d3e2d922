"""Study of a session: opened, filled with the trials to try first, and brought up to date with the ledger."""

from __future__ import annotations

from collections.abc import Callable

import optuna

from orchestrator.config.plans import SearchPlan, SweepPlans
from orchestrator.records.ledger import Ledger
from orchestrator.records.objectives import Objectives
from orchestrator.search.proposals.enqueued_trials import enqueue_lost_requests, enqueue_trials
from orchestrator.search.proposals.space_summary import summarize_space
from orchestrator.search.steering.present_space import known_choices, store_choices, union_if_changed
from orchestrator.search.storage import open_storage
from orchestrator.search.study import open_study
from orchestrator.search.study_replay import replay_study
from orchestrator.search.write_behind import flush_study


def set_up_study(plans: SweepPlans, ledger: Ledger, objectives: Objectives, say: Callable[[str], None]) -> optuna.Study:
    """Open the study of a sweep, enqueue its first trials where none has begun, and replay the ledger into it.

    Args:
        plans: Plans of the sweep.
        ledger: Ledger of the sweep.
        objectives: Objectives and constraints of the sweep.
        say: Called with a line for the user.

    Raises:
        StorageError: The database does not answer.
        SweepNameError: The name of a new sweep is taken in the database.
        ResumeError: The study is not the one of this sweep.
    """
    storage = open_storage(plans.paths.study_uri)
    study = open_study(plans.search, plans.name, storage, resumed=ledger.sessions > 1)
    if not ledger.trials():
        fill_queue(study, plans.search, storage, say)
    union = union_if_changed(ledger.searched, plans.search.space)
    if union is not None:
        store_choices(study, known_choices(ledger.searched))
    replay_study(study, ledger, union or plans.search.space, objectives)
    enqueue_lost_requests(study, ledger.enqueued)
    flush_study(study)
    return study


def fill_queue(
    study: optuna.Study, plan: SearchPlan, storage: optuna.storages.BaseStorage, say: Callable[[str], None]
) -> None:
    """Enqueue the trials that a sweep tries first, and print its space and these trials.

    Args:
        study: New study.
        plan: Search plan of the sweep.
        storage: Database that holds the studies of earlier sweeps as well.
        say: Called with a line for the user.
    """
    for heading, text in summarize_space(plan):
        say(f"{heading}: {text}")
    enqueue_trials(study, plan, storage, say)
