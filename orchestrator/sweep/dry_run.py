"""What a sweep would do, found out without starting it: no folder, no database, no Ray instance."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import ray

from orchestrator.config.sweep import SweepConfig
from orchestrator.data import dataset_facts
from orchestrator.errors import ClusterError, SweepNameError
from orchestrator.files.runs_dir import resolve_runs_dir
from orchestrator.records.costs import Rates
from orchestrator.records.folder.sweep_folder import new_folder
from orchestrator.records.stored_config import complete_settings
from orchestrator.runtime.lane_plan import LanePlan, plan_lanes
from orchestrator.runtime.ray_session import ray_session
from orchestrator.search.space_summary import space_words
from orchestrator.search.trial_filter import Validity
from orchestrator.sweep.dry_run_trials import LargestTrial, Proposal, describe, first_trials, largest_trial
from orchestrator.uris import masked

SHOWN = 5
_HOUR_S = 3_600.0


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
        space: What a named space varies and what the sweep has fixed, under headings.
        tried_first: What is tried before the sampler proposes anything, and what is not, a line each.
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
    space: tuple[tuple[str, str], ...] = ()
    tried_first: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain data, without passwords."""
        footprint = {**asdict(self.largest.footprint), "total": self.largest.footprint.total}
        found = {
            "config": complete_settings(self.config),
            "proposals": [asdict(proposal) for proposal in self.proposals],
            "rejected": self.rejected,
            "largest": {**asdict(self.largest), "footprint": footprint},
            "plan": None if self.plan is None else asdict(self.plan),
            "plan_problem": self.plan_problem or None,
            "place": self.place,
            "bounds": asdict(self.bounds),
            "notice": self.notice or None,
            "space": {heading.lower(): text for heading, text in self.space},
            "tried_first": list(self.tried_first),
        }
        return dict(masked(found))


def dry_run(
    config: SweepConfig,
    *,
    address: str | None = None,
    shown: int = SHOWN,
    say: Callable[[str], None] | None = None,
) -> DryRun:
    """Finds out what a sweep would do, without starting anything.

    Args:
        config: Checked when it was built.
        address: Ray cluster to ask for room, which is joined and left; None asks this machine, or `RAY_ADDRESS`.
        shown: First configurations to propose.
        say: Told how a long search for a configuration stands.

    Raises:
        SpaceExhaustedError: Nothing but rejected configurations was proposed, many times in a row.
        ClusterError: The cluster does not answer.
    """
    facts = dataset_facts(config.dataset.name, config.dataset.uri, config.dataset.crop_size)
    validity = Validity(config, facts)
    first = first_trials(config, min(shown, config.trials), say)
    plan, problem, place = _plan(config, address)
    return DryRun(
        config=config,
        proposals=tuple(describe(config, validity, trial) for trial in first.trials),
        rejected=first.rejected,
        largest=largest_trial(config, validity, facts, first.trials, config.resources.min_workers),
        plan=plan,
        plan_problem=problem,
        place=place,
        bounds=cost_bounds(config, plan),
        notice=_name_taken(config),
        space=tuple(space_words(config)),
        tried_first=first.tried_first,
    )


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


def _name_taken(config: SweepConfig) -> str:
    try:
        new_folder(resolve_runs_dir(config.runs_dir), config.name)
    except SweepNameError as error:
        return str(error)
    return ""


def _plan(config: SweepConfig, address: str | None) -> tuple[LanePlan | None, str, str]:
    """Lanes that fit, why none does, and where that was asked."""
    address = address or os.environ.get("RAY_ADDRESS")
    if address is None and not ray.is_initialized():
        return *_fit(config, [this_machine()]), "this machine"
    with ray_session(address):  # one that is open is used, as a sweep would
        return *_fit(config, None), f"the cluster at {address}" if address else "the cluster this process has joined"


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
