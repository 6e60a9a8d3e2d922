"""The Optuna study of a sweep."""

from __future__ import annotations

import logging
import warnings

import optuna

from orchestrator.config.plans import SearchPlan
from orchestrator.config.sections.first_trials import PAPERS
from orchestrator.errors import StorageError, SweepNameError
from orchestrator.search.proposals.enqueued_trials import paper_configurations
from orchestrator.search.samplers.choice import may_end_early, second_rung
from orchestrator.search.samplers.samplers import create_sampler
from orchestrator.search.write_behind import StudyDatabase, WriteBehindStorage, flush_study

logger = logging.getLogger(__name__)


def open_study(
    plan: SearchPlan, name: str, storage: optuna.storages.BaseStorage, *, resumed: bool = False
) -> optuna.Study:
    """Create the study of a sweep in its Optuna database, or load it for a resumed sweep.

    Args:
        plan: Search plan of the sweep.
        name: Name of the study; unique in the database.
        storage: Database of the studies.
        resumed: Whether the sweep has begun in an earlier session; a lost study is created again then.

    Raises:
        SweepNameError: A new sweep's name is taken in the database.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Experimental by name only: several years old, and without an alternative.
    warnings.filterwarnings(
        "ignore", "optuna.study.study.Study.set_metric_names", optuna.exceptions.ExperimentalWarning
    )
    # A configuration enqueued before the space changed; the searcher rejects it with a message of its own.
    warnings.filterwarnings("ignore", message="Fixed parameter .* is out of range", category=UserWarning)
    try:
        study = optuna.create_study(
            study_name=name,
            storage=WriteBehindStorage(storage) if isinstance(storage, StudyDatabase) else storage,
            sampler=create_sampler(
                plan.sampler,
                plan.space,
                plan.seed,
                trials=plan.trials,
                objectives=len(plan.objectives),
                constraints=len(plan.constraints),
                ends_early=may_end_early(plan.trial_scheduler.name),
                second_rung=second_rung(plan.trial_scheduler, plan.max_epochs),
                known=paper_configurations(plan) if plan.sampler.prior == PAPERS else (),
                tournament=plan.tournament is not None,
            ),
            directions=["maximize" if objective.mode == "max" else "minimize" for objective in plan.objectives],
            load_if_exists=resumed,
        )
    except optuna.exceptions.DuplicatedStudyError:
        raise SweepNameError(
            f"the Optuna database has a study '{name}' of a sweep whose folder is gone. Start with another `--name`, "
            f"or remove it with `spatialsweep delete {name}`"
        ) from None
    study.set_metric_names([objective.metric for objective in plan.objectives])
    study.set_user_attr("space_fingerprint", plan.space.fingerprint)
    return study


def close_study(study: optuna.Study) -> None:
    """Write to the database what was changed last; where it does not answer, log that a resumed sweep will.

    Args:
        study: Study of the sweep.
    """
    try:
        flush_study(study)
    except StorageError as error:
        logger.warning("The newest changes of the study are in the journal only, for a resumed sweep: %s", error)
