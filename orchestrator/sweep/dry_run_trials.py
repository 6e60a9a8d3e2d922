"""The first configurations a sweep would try, and the one that needs most memory."""

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

from orchestrator.config.sections.training import TrainingConfig
from orchestrator.config.sweep import SweepConfig
from orchestrator.config.trial import TrialConfig, resolve_trial
from orchestrator.data.datasets import DatasetFacts
from orchestrator.files.runs_dir import resolve_runs_dir
from orchestrator.files.sqlite_files import is_missing_file
from orchestrator.records.journal import Journal
from orchestrator.records.ledger import Ledger
from orchestrator.search.trial_filter import Validity
from orchestrator.training.memory_estimate import MemoryEstimate, estimate_memory
from search_spaces import setting_of

# Samplers whose proposals do not depend on what earlier trials brought; others begin so.
_BLIND = ("random", "grid", "qmc")
# Of the ends of the space, so many are looked at, and of these so many measured.
_EXTREMES = 48
_MEASURED = 3
_MEMORY_SETTINGS = ("global_batch_size", "accumulation_steps", "optimizer", "precision", "ema_decay")


@dataclass(frozen=True)
class Proposal:
    """A configuration that would be tried.

    Args:
        number: Of the trial.
        values: Searched names.
        model: Name of the network.
        params: Numbers it learns.
        macs: Multiply-accumulates of one image.
        epochs: At most.
        certain: Whether the sweep will try exactly this; later proposals depend on what earlier trials bring.
        source: Of a configuration that is tried first: a paper, an earlier sweep, or the sweep's file; else None.
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
    """The configuration that needs most memory among the extremes of the space and the first proposals.

    Args:
        model: Name of its network.
        values: Searched names.
        params: Numbers it learns.
        macs: Multiply-accumulates of one image.
        footprint: Memory of one worker.
        looked_at: Configurations it is the largest of.
    """

    model: str
    values: Mapping[str, Any]
    params: int
    macs: int
    footprint: MemoryEstimate
    looked_at: int


class First(NamedTuple):
    """One of the first trials.

    Args:
        trial: Its configuration.
        values: Searched names.
        source: Where they come from; None from the sampler.
    """

    trial: TrialConfig
    values: Mapping[str, Any]
    source: str | None


class FirstTrials(NamedTuple):
    """What a sweep begins with.

    Args:
        trials: The first ones.
        rejected: Configurations proposed before these and not worth a trial.
        tried_first: What is tried before the sampler proposes anything, and what is not, a line each.
    """

    trials: list[First]
    rejected: int
    tried_first: tuple[str, ...]


def first_trials(config: SweepConfig, count: int, say: Callable[[str], None] | None = None) -> FirstTrials:
    """Asks a study in memory, as a sweep would ask its own.

    Args:
        config: Of the sweep.
        count: Trials to ask for; a grid may have fewer.
        say: Told how a long search for a configuration stands.

    Raises:
        SpaceExhaustedError: Nothing but rejected configurations was proposed, many times in a row.
    """
    from orchestrator.lanes.trial_client import TRIAL
    from orchestrator.search.first_trials import SOURCE, enqueue_first
    from orchestrator.search.searcher import StudySearcher
    from orchestrator.search.study import open_study

    storage = optuna.storages.InMemoryStorage()
    study = open_study(config, config.name, storage)
    tried_first: list[str] = []
    enqueue_first(study, config, _earlier_studies(config) or storage, tried_first.append)
    with tempfile.TemporaryDirectory() as scratch, Journal(Path(scratch) / "journal.jsonl") as journal:
        ledger = Ledger(journal)
        searcher = StudySearcher(study, config, ledger, say=say)
        found = []
        for number in range(count):
            asked = searcher.suggest(f"dry-{number}")
            if not isinstance(asked, dict):
                break
            trial = TrialConfig.model_validate_json(json.dumps(asked[TRIAL]))
            source = study.get_trials(deepcopy=False)[trial.number].user_attrs.get(SOURCE)
            found.append(First(trial, ledger.trial(trial.number).params, source))
        return FirstTrials(found, len(ledger.rejected()), tuple(tried_first))


def _earlier_studies(config: SweepConfig) -> optuna.storages.BaseStorage | None:
    """The database of the sweeps that `warm_start` names; None where none is named, or there is no database."""
    from orchestrator.search.storage import open_storage, study_uri

    uri = study_uri(config, resolve_runs_dir(config.runs_dir))
    if not config.warm_start or is_missing_file(uri):
        return None
    return open_storage(uri)


def describe(config: SweepConfig, validity: Validity, first: First) -> Proposal:
    """A first trial with the size of its network.

    Args:
        config: Of the sweep.
        validity: Counts networks.
        first: The trial.
    """
    cost, number = validity.cost_of(first.trial), first.trial.number
    blind = config.sampler.name in _BLIND or number < config.sampler.startup_trials
    return Proposal(
        number=number,
        values=dict(first.values),
        model=first.trial.model.name,
        params=cost.params,
        macs=cost.macs,
        epochs=first.trial.training.epochs,
        certain=blind or first.source is not None,
        source=first.source,
    )


def largest_trial(
    config: SweepConfig,
    validity: Validity,
    facts: DatasetFacts,
    trials: Sequence[First],
    workers: int,
) -> LargestTrial:
    """Measures the few that have the most multiply-accumulates and parameters, and takes the one with most memory.

    Args:
        config: Of the sweep.
        validity: Tells which ends of the space are worth a trial.
        facts: Of the images.
        trials: Looked at as well.
        workers: Of a trial.
    """
    extremes = (row for row in _extremes(config) if validity.rejection(row.trial) is None)
    different = {_setting(row.trial): row for row in (*trials, *extremes)}
    rows = [(trial, values, validity.cost_of(trial)) for trial, values, _ in different.values()]
    by_work = heapq.nlargest(_MEASURED, rows, key=lambda row: row[2].macs * row[0].training.global_batch_size)
    by_size = heapq.nlargest(1, rows, key=lambda row: row[2].params)
    measured = [
        (estimate_memory(row[0], facts, workers), row)
        for row in by_work + [row for row in by_size if row not in by_work]
    ]
    footprint, (trial, values, cost) = max(measured, key=lambda pair: pair[0].total)
    return LargestTrial(trial.model.name, dict(values), cost.params, cost.macs, footprint, len(rows))


def _extremes(config: SweepConfig) -> Iterator[First]:
    """The highest values of every branch of the space together, then each name at its other ends.

    Of a space with many branches, some that lie evenly among them.
    """
    space = config.space
    branches = list(space.branches())
    branches = branches[:: -(-len(branches) // _EXTREMES)]
    for branch in branches:
        corners = {name: space[name].corners() for name in space.active(branch)}
        highest = {name: values[-1] for name, values in corners.items()} | branch
        deciding = [name for name in corners if name not in branch and _decides_memory(name)]
        others = ({**highest, name: value} for name in deciding for value in corners[name][:-1])
        for values in islice((highest, *others), max(1, _EXTREMES // len(branches))):
            yield First(resolve_trial(config, 0, values), values, None)


def _decides_memory(name: str) -> bool:
    """Whether a searched name may change what a worker needs; most settings of training do not."""
    setting = setting_of(name)
    return setting not in TrainingConfig.model_fields or setting in _MEMORY_SETTINGS


def _setting(trial: TrialConfig) -> str:
    """Equal for trials that need the same memory."""
    training = {name: getattr(trial.training, name) for name in _MEMORY_SETTINGS}
    return json.dumps([trial.model.name, dict(trial.model.options), training], sort_keys=True)
