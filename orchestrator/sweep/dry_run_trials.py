"""First configurations of a sweep, and the one that needs most memory."""

from __future__ import annotations

import heapq
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import optuna

from orchestrator.config.plans import SearchPlan
from orchestrator.config.sections.study import SamplerConfig
from orchestrator.config.sections.training import TrainingConfig
from orchestrator.config.trial import ROW, SEED, TrialConfig, resolve_trial
from orchestrator.data.datasets import DatasetFacts
from orchestrator.files.sqlite_files import is_missing_file
from orchestrator.lanes.tune_keys import TRIAL
from orchestrator.records.journal import Journal
from orchestrator.records.ledger import Ledger
from orchestrator.search.proposals.enqueued_trials import SOURCE, enqueue_trials
from orchestrator.search.proposals.trial_filter import TrialFilter
from orchestrator.search.searcher import StudySearcher
from orchestrator.search.study import open_study
from orchestrator.training.memory.memory_estimate import MemoryEstimate, estimate_memory
from search_spaces import setting_of

# Samplers whose proposals do not depend on the results of earlier trials; others begin so.
_INDEPENDENT = ("random", "grid", "qmc")
# Number of extremes of the space that are considered, and of these measured.
_EXTREMES = 48
_MEASURED = 3
_MEMORY_SETTINGS = (
    "global_batch_size",
    "max_global_batch_size",
    "accumulation_steps",
    "optimizer",
    "precision",
    "ema_decay",
    "gradient_checkpointing",
)


@dataclass(frozen=True)
class Proposal:
    """Configuration that would be tried.

    Args:
        number: Number of the trial.
        values: Values by searched name.
        model: Name of the network.
        params: Number of its parameters.
        macs: Multiply-accumulates of one image.
        epochs: Largest number of epochs.
        certain: Whether the sweep will try exactly this; later proposals depend on the results of earlier trials.
        source: Paper, earlier sweep or list entry of a configuration that is tried first; else None.
    """

    number: int
    values: Mapping[str, Any]
    model: str
    params: int
    macs: int
    epochs: int
    certain: bool
    source: str | None = None


@dataclass(frozen=True)
class LargestTrial:
    """Configuration that needs most memory among the extremes of the space and the first proposals.

    Args:
        model: Name of its network.
        values: Values by searched name.
        params: Number of its parameters.
        macs: Multiply-accumulates of one image.
        footprint: Memory of one worker.
        looked_at: Number of configurations it is the largest of.
    """

    model: str
    values: Mapping[str, Any]
    params: int
    macs: int
    footprint: MemoryEstimate
    looked_at: int


class PreviewTrial(NamedTuple):
    """Trial that a sweep would run.

    Args:
        trial: Configuration of the trial.
        values: Values by searched name.
        source: Source of the values; None where the sampler draws them.
    """

    trial: TrialConfig
    values: Mapping[str, Any]
    source: str | None


class Preview(NamedTuple):
    """First trials of a sweep.

    Args:
        trials: First trials.
        rejected: Number of configurations proposed before these and rejected by the trial filter.
        tried_first: Configurations that are tried before the sampler proposes any, and those that are not, a line each.
    """

    trials: list[PreviewTrial]
    rejected: int
    tried_first: tuple[str, ...]


def preview_trials(plan: SearchPlan, count: int, study_uri: str, say: Callable[[str], None] | None = None) -> Preview:
    """Return the first trials of a sweep, proposed by a study in memory as its own study would propose them.

    Args:
        plan: Search plan of the sweep.
        count: Number of trials; a grid may have fewer.
        study_uri: Database of the sweeps that `warm_start` names.
        say: Called with the state of a long search for a configuration.

    Raises:
        SpaceExhaustedError: Nothing but rejected configurations was proposed, many times in a row.
    """
    study = open_study(plan, "preview", optuna.storages.InMemoryStorage())
    tried_first: list[str] = []
    has_earlier = plan.warm_start and not is_missing_file(study_uri)
    earlier = _open_storage(study_uri) if has_earlier else optuna.storages.InMemoryStorage()
    enqueue_trials(study, plan, earlier, tried_first.append)
    with tempfile.TemporaryDirectory() as scratch, Journal(Path(scratch) / "journal.jsonl") as journal:
        ledger = Ledger(journal)
        searcher = StudySearcher(study, plan, ledger, say=say)
        found = []
        for number in range(count):
            proposed = searcher.suggest(f"dry-{number}")
            if not isinstance(proposed, dict):
                break
            trial = TrialConfig.model_validate_json(json.dumps(proposed[TRIAL]))
            source = study.get_trials(deepcopy=False)[trial.number].user_attrs.get(SOURCE)
            found.append(PreviewTrial(trial, ledger.trial(trial.number).params, source))
        return Preview(found, len(ledger.rejected()), tuple(tried_first))


def _open_storage(uri: str) -> optuna.storages.BaseStorage:
    from orchestrator.search.storage import open_storage  # takes SQLAlchemy and Alembic along, for earlier sweeps alone

    return open_storage(uri)


def describe(sampler: SamplerConfig, trial_filter: TrialFilter, first: PreviewTrial) -> Proposal:
    """Return a trial with the size of its network.

    Args:
        sampler: Sampler of the sweep.
        trial_filter: Filter that counts the parameters of networks.
        first: Trial to describe.
    """
    cost, number = trial_filter.cost_of(first.trial), first.trial.number
    independent = sampler.name in _INDEPENDENT or number < sampler.startup_trials
    independent = independent and (sampler.prior == "none" or number == 0)  # the share of the prior follows the results
    return Proposal(
        number=number,
        values=dict(first.values),
        model=first.trial.model.name,
        params=cost.params,
        macs=cost.macs,
        epochs=first.trial.training.epochs,
        certain=independent or first.source is not None,
        source=first.source,
    )


def largest_trial(
    plan: SearchPlan,
    trial_filter: TrialFilter,
    facts: DatasetFacts,
    trials: Sequence[PreviewTrial],
    workers: int,
) -> LargestTrial:
    """Return the configuration that needs most memory.

    The few with the most multiply-accumulates and parameters are measured.

    Args:
        plan: Search plan of the sweep.
        trial_filter: Filter of the extremes of the space.
        facts: Image size and number of classes.
        trials: First trials, considered as well.
        workers: Number of workers of a trial.
    """
    extremes = (row for row in _extremes(plan) if trial_filter.rejection(row.trial) is None)
    different = {_memory_key(row.trial): row for row in (*trials, *extremes)}
    rows = [(trial, values, trial_filter.cost_of(trial)) for trial, values, _ in different.values()]
    by_work = heapq.nlargest(_MEASURED, rows, key=lambda row: row[2].macs * row[0].training.batch_size)
    by_size = heapq.nlargest(1, rows, key=lambda row: row[2].params)
    measured = [
        (estimate_memory(row[0], facts, workers), row)
        for row in by_work + [row for row in by_size if row not in by_work]
    ]
    footprint, (trial, values, cost) = max(measured, key=lambda pair: pair[0].total)
    return LargestTrial(trial.model.name, dict(values), cost.params, cost.macs, footprint, len(rows))


def _extremes(plan: SearchPlan) -> Iterator[PreviewTrial]:
    """Yield the highest values of every branch of the space together, then each name at its other ends.

    A space with many branches is thinned out evenly.
    """
    space = plan.space
    branches = list(space.branches())
    branches = branches[:: -(-len(branches) // _EXTREMES)]
    for branch in branches:
        corners = {name: space[name].corners() for name in space.active(branch)}
        highest = {name: values[-1] for name, values in corners.items()} | branch
        deciding = [name for name in corners if name not in branch and _decides_memory(name)]
        others = ({**highest, name: value} for name in deciding for value in corners[name][:-1])
        for values in islice((highest, *others), max(1, _EXTREMES // len(branches))):
            yield PreviewTrial(resolve_trial(plan, 0, values, plan.initial_weights), values, None)


def _decides_memory(name: str) -> bool:
    """Return whether a searched name may change the memory of a worker; most training settings do not."""
    setting = setting_of(name)
    if setting in (ROW, SEED):
        return False
    return setting not in TrainingConfig.model_fields or setting in _MEMORY_SETTINGS


def _memory_key(trial: TrialConfig) -> str:
    """Return a text that is equal for trials that need the same memory."""
    training = {name: getattr(trial.training, name) for name in _MEMORY_SETTINGS}
    return json.dumps([trial.model.name, dict(trial.model.options), training], sort_keys=True)
