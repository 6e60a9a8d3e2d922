"""What a sweep would do, found out without starting it: no folder, no database, no Ray instance."""

from __future__ import annotations

import heapq
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import optuna

from orchestrator.config.schema import SweepConfig, TrialConfig, resolve_trial
from orchestrator.config.training import TrainingConfig
from orchestrator.data import dataset_facts
from orchestrator.data.datasets import DatasetFacts
from orchestrator.errors import ClusterError, SweepNameError
from orchestrator.ledger import Ledger
from orchestrator.recorded import recorded
from orchestrator.runs_dir import resolve_runs_dir
from orchestrator.session import LanePlan, plan_lanes, ray_session
from orchestrator.spending import Rates
from orchestrator.sweep_folder import new_folder
from orchestrator.tracking.addresses import SQLITE
from orchestrator.tracking.journal import Journal
from orchestrator.training.footprint import Footprint, estimate_footprint
from orchestrator.validity import Validity
from search_spaces import setting_of

SHOWN = 5
_HOUR_S = 3_600.0
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
    footprint: Footprint
    looked_at: int


@dataclass(frozen=True)
class Bounds:
    """The most a sweep can cost; None where nothing bounds it. Trials end at their next report, an epoch later at most.

    Args:
        epochs: Of all trials together.
        wall_s: Time by the clock.
        cpu_hours: CPUs reserved times hours.
        gpu_hours: GPUs reserved times hours.
        price: Of these hours.
    """

    epochs: int
    wall_s: float | None
    cpu_hours: float | None
    gpu_hours: float | None
    price: float | None


@dataclass(frozen=True)
class DryRun:
    """What a sweep would do.

    Args:
        config: Checked.
        proposals: The first configurations.
        rejected: Configurations proposed before these and not worth a trial.
        largest: By memory.
        plan: Lanes and workers; None where not one lane fits.
        plan_problem: Why none fits.
        place: What was asked for room: this machine, or a cluster.
        bounds: The most it can cost.
        notice: Why the sweep could not be started under its name; empty where it could.
    """

    config: SweepConfig = field(repr=False)
    proposals: tuple[Proposal, ...]
    rejected: int
    largest: LargestTrial
    plan: LanePlan | None
    plan_problem: str
    place: str
    bounds: Bounds
    notice: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain data, without passwords."""
        footprint = {**asdict(self.largest.footprint), "total": self.largest.footprint.total}
        return {
            "config": recorded(self.config),
            "proposals": [asdict(proposal) for proposal in self.proposals],
            "rejected": self.rejected,
            "largest": {**asdict(self.largest), "footprint": footprint},
            "plan": None if self.plan is None else asdict(self.plan),
            "plan_problem": self.plan_problem or None,
            "place": self.place,
            "bounds": asdict(self.bounds),
            "notice": self.notice or None,
        }


def dry_run(config: SweepConfig, *, address: str | None = None, shown: int = SHOWN) -> DryRun:
    """Finds out what a sweep would do, without starting anything.

    Args:
        config: Checked when it was built.
        address: Ray cluster to ask for room, which is joined and left; None asks this machine, or `RAY_ADDRESS`.
        shown: First configurations to propose.

    Raises:
        ClusterError: The cluster does not answer.
    """
    facts = dataset_facts(config.dataset.name, config.dataset.uri, config.dataset.crop_size)
    validity = Validity(config, facts)
    trials, rejected = first_trials(config, min(shown, config.trials))
    plan, problem, place = _plan(config, address)
    return DryRun(
        config=config,
        proposals=tuple(_proposal(config, validity, first) for first in trials),
        rejected=rejected,
        largest=_largest(config, validity, facts, trials, config.resources.min_workers),
        plan=plan,
        plan_problem=problem,
        place=place,
        bounds=cost_bounds(config, plan),
        notice=_name_taken(config),
    )


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


def first_trials(config: SweepConfig, count: int) -> tuple[list[First], int]:
    """Asks a study in memory, as a sweep would ask its own.

    Args:
        config: Of the sweep.
        count: Trials to ask for; a grid may have fewer.

    Returns:
        The trials, and how many others were rejected.
    """
    from orchestrator.lanes.client import TRIAL
    from orchestrator.search.first_trials import SOURCE, enqueue_first
    from orchestrator.search.searcher import StudySearcher
    from orchestrator.search.study import open_study

    storage = optuna.storages.InMemoryStorage()
    study = open_study(config, config.name, storage)
    enqueue_first(study, config, _earlier_studies(config) or storage)
    with tempfile.TemporaryDirectory() as scratch, Journal(Path(scratch) / "journal.jsonl") as journal:
        ledger = Ledger(journal)
        searcher = StudySearcher(study, config, ledger)
        found = []
        for number in range(count):
            asked = searcher.suggest(f"dry-{number}")
            if not isinstance(asked, dict):
                break
            trial = TrialConfig.model_validate_json(json.dumps(asked[TRIAL]))
            source = study.get_trials(deepcopy=False)[trial.number].user_attrs.get(SOURCE)
            found.append(First(trial, ledger.trial(trial.number).params, source))
        return found, len(ledger.rejected())


def _earlier_studies(config: SweepConfig) -> optuna.storages.BaseStorage | None:
    """The database of the sweeps that `warm_start` names; None where none is named, or there is no database."""
    from orchestrator.search.storage import open_storage, study_uri

    uri = study_uri(config, resolve_runs_dir(config.runs_dir))
    if not config.warm_start or (uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).exists()):
        return None
    return open_storage(uri)


def cost_bounds(config: SweepConfig, plan: LanePlan | None) -> Bounds:
    """The most a sweep can cost on so many lanes: the tightest limit bounds CPUs and GPUs, as a trial holds both."""
    budget, epochs = config.budget, config.trials * config.max_epochs
    if plan is None:
        return Bounds(epochs, budget.wall_clock, budget.cpu_hours, budget.gpu_hours, None)
    cpus, gpus = plan.workers * config.resources.cpus_per_worker, plan.workers * plan.gpus_per_worker
    limits_s = [
        *([] if budget.wall_clock is None else [budget.wall_clock * plan.lanes]),
        *([] if budget.cpu_hours is None else [budget.cpu_hours * _HOUR_S / cpus]),
        *([] if budget.gpu_hours is None or not gpus else [budget.gpu_hours * _HOUR_S / gpus]),
    ]
    if not limits_s:
        return Bounds(epochs, None, None, None, None)
    cost = Rates(cpus, gpus, budget.price_per_cpu_hour, budget.price_per_gpu_hour).cost(min(limits_s))
    return Bounds(epochs, budget.wall_clock, cost.cpu_s / _HOUR_S, cost.gpu_s / _HOUR_S, cost.price)


def _proposal(config: SweepConfig, validity: Validity, first: First) -> Proposal:
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


def _largest(
    config: SweepConfig,
    validity: Validity,
    facts: DatasetFacts,
    trials: Sequence[First],
    workers: int,
) -> LargestTrial:
    """Measures the few that have the most multiply-accumulates and parameters, and takes the one with most memory."""
    extremes = (row for row in _extremes(config) if validity.rejection(row.trial) is None)
    rows = [(trial, values, validity.cost_of(trial)) for trial, values, _ in (*trials, *extremes)]
    by_work = heapq.nlargest(_MEASURED, rows, key=lambda row: row[2].macs * row[0].training.global_batch_size)
    by_size = heapq.nlargest(1, rows, key=lambda row: row[2].params)
    measured = [(estimate_footprint(row[0], facts, workers), row) for row in (*by_work, *by_size)]
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


def _name_taken(config: SweepConfig) -> str:
    try:
        new_folder(resolve_runs_dir(config.runs_dir), config.name)
    except SweepNameError as error:
        return str(error)
    return ""


def _plan(config: SweepConfig, address: str | None) -> tuple[LanePlan | None, str, str]:
    """Lanes that fit, why none does, and where that was asked."""
    address = address or os.environ.get("RAY_ADDRESS")
    if address is None:
        return *_fit(config, [this_machine()]), "this machine"
    with ray_session(address):
        return *_fit(config, None), f"the cluster at {address}"


def _fit(config: SweepConfig, nodes: list[Mapping[str, float]] | None) -> tuple[LanePlan | None, str]:
    try:
        return plan_lanes(config.resources, config.trials, nodes), ""
    except ClusterError as error:
        return None, str(error)


def this_machine() -> Mapping[str, float]:
    """What a private Ray instance would offer here, in Ray's words."""
    import torch

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"CPU": float(os.cpu_count() or 1), "GPU": float(torch.cuda.device_count()), "memory": float(memory)}
