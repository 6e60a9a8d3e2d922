"""Dry run: what a sweep would do, found out without a folder, a database or a Ray instance."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from orchestrator.config.plans import SearchPlan, SweepPlans, resolve_plans
from orchestrator.config.sections.budget import BudgetConfig
from orchestrator.config.sections.resources import ResourcesConfig
from orchestrator.config.sweep import SweepConfig
from orchestrator.config.tasks.networks import facts_of_images
from orchestrator.config.validation.sampler_rules import WITH_STARTUP
from orchestrator.errors import ClusterError, SweepNameError
from orchestrator.files.usable_places import require_usable_places
from orchestrator.inference.weights.initial import find_initial_weights
from orchestrator.notify.notifications import known_addresses
from orchestrator.records.costs import Rates
from orchestrator.records.folder.sweep_folder import new_folder
from orchestrator.records.settings.stored_config import complete_settings, non_default_settings
from orchestrator.runtime.gpu_share import GpuMemory, share_for
from orchestrator.runtime.lane_plan import LanePlan, plan_lanes
from orchestrator.search.proposals.space_summary import summarize_prior, summarize_space
from orchestrator.search.proposals.trial_filter import TrialFilter
from orchestrator.search.racing import arms_of
from orchestrator.search.samplers.choice import SamplerChoice, chosen_sampler, reason_of_first_trials
from orchestrator.sweep.dry_run_trials import (
    LargestTrial,
    PreviewTrial,
    Proposal,
    describe,
    largest_trial,
    preview_trials,
)
from orchestrator.uris import masked

SHOWN = 5
_HOUR_S = 3_600.0


@dataclass(frozen=True)
class Bounds:
    """Upper bounds on the cost of a sweep; None where nothing bounds it.

    Trials end at their next report, an epoch later at most.

    Args:
        epochs: Epochs of all trials together.
        wall_s: Wall-clock time in seconds.
        cpu_hours: CPUs reserved times hours.
        gpu_hours: GPUs reserved times hours.
        price: Price of these hours.
    """

    epochs: int
    wall_s: float | None
    cpu_hours: float | None
    gpu_hours: float | None
    price: float | None


@dataclass(frozen=True)
class DryRun:
    """Result of a dry run.

    Args:
        plans: Plans of the sweep.
        settings: All its settings, without passwords.
        non_default: Settings that differ from the defaults, without passwords.
        proposals: First configurations.
        rejected: Number of configurations proposed before these and rejected by the trial filter.
        largest: Configuration that needs most memory.
        plan: Lanes and workers; None where not one lane fits.
        plan_problem: Reason why none fits.
        place: Machine or cluster whose resources were planned with.
        bounds: Upper bounds on the cost.
        notice: Reason why the sweep could not be started under its name; empty where it could.
        space: What a named space varies, what the sweep has fixed, and the prior of the sampler, under headings.
        tried_first: Configurations that are tried before the sampler proposes any, and those that are not, a line each.
        strategy: Sampler and trial scheduler that were chosen, and why, a line each; none for one that the sweep names,
            except for a setting that has no effect beside it.
        checkpoints: What checkpoints that trials start from hold beside the weights that are used, a line each.
    """

    plans: SweepPlans = field(repr=False)
    settings: Mapping[str, Any] = field(repr=False)
    non_default: Mapping[str, Any] = field(repr=False)
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
    strategy: tuple[str, ...] = ()
    checkpoints: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return plain data without passwords."""
        footprint = {**asdict(self.largest.footprint), "total": self.largest.footprint.total}
        found = {
            "config": self.settings,
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
            "strategy": list(self.strategy),
            "checkpoints": list(self.checkpoints),
        }
        return dict(masked(found))


def dry_run(
    config: SweepConfig,
    *,
    address: str | None = None,
    shown: int = SHOWN,
    say: Callable[[str], None] | None = None,
) -> DryRun:
    """Find out what a sweep would do, without starting anything.

    Args:
        config: Checked configuration of the sweep.
        address: Ray cluster to plan for, which is joined and left; None takes this machine, or `RAY_ADDRESS`.
        shown: Number of first configurations to propose.
        say: Called with the state of a long search for a configuration.

    Raises:
        ConfigError: A folder to write to cannot be used, the environment variable of an address is not set, or a
            checkpoint that trials start from cannot be read or is not of the network.
        SpaceExhaustedError: Nothing but rejected configurations was proposed, many times in a row.
        ClusterError: The cluster does not answer.
    """
    plans = resolve_plans(config)
    require_usable_places(plans.paths.runs_dir, plans.paths.study_uri)
    known_addresses(plans.notify, say or (lambda _: None))
    found = find_initial_weights(plans)
    plans = found.in_plans(plans)
    search, resources = plans.search, plans.training.resources
    facts = facts_of_images(search.dataset, search.task)
    trial_filter = TrialFilter(search, facts)
    preview = preview_trials(search, min(shown, search.trials), plans.paths.study_uri, say)
    largest = largest_trial(search, trial_filter, facts, preview.trials, resources.min_workers)
    choice = chosen_sampler(search)
    sampler = search.sampler if choice is None else search.sampler.model_copy(update={"name": choice.name})
    first_trials = reason_of_first_trials(search, sampler, is_drawn=_is_first_drawn(preview.trials))
    plan, problem, place = _plan(resources, search.trials, address, largest)
    return DryRun(
        plans=plans,
        settings=complete_settings(config),
        non_default=non_default_settings(config),
        proposals=tuple(describe(sampler, trial_filter, trial) for trial in preview.trials),
        rejected=preview.rejected,
        largest=largest,
        plan=plan,
        plan_problem=problem,
        place=place,
        bounds=cost_bounds(plans.budget, _most_epochs(search), plan, resources.cpus_per_worker),
        notice=_name_taken(plans),
        space=(*summarize_space(search), *summarize_prior(search)),
        tried_first=preview.tried_first,
        strategy=tuple(_chosen(config, choice, first_trials)),
        checkpoints=found.notes,
    )


def _is_first_drawn(trials: Sequence[PreviewTrial]) -> bool:
    """Return whether the sampler draws all values of the very first trial."""
    return any(each.trial.number == 0 and each.source is None for each in trials)


def _chosen(config: SweepConfig, choice: SamplerChoice | None, first_trials: str) -> Iterator[str]:
    """Yield what was chosen for the sweep, and why."""
    given = config.sampler
    if choice is not None:
        yield f"Sampler {choice.name}: {choice.reason}"
    elif "rules" in given.model_fields_set and (given.name not in WITH_STARTUP or given.startup == "random"):
        yield f"sampler.rules {given.rules} has no effect: they choose for auto, and the sweep has {given.name}"
    if first_trials:
        yield f"First trials: {first_trials}"
    if config.strategy_use.reason:
        yield f"Trial scheduler {config.trial_scheduler.name}: {config.strategy_use.reason}"


def _most_epochs(search: SearchPlan) -> int:
    """Return the epochs of all trials, if every configuration that may get further seeds gets them all."""
    repeated = search.trials if search.tournament is None else len(arms_of(search))
    return (search.trials + repeated * (search.seeds - 1)) * search.max_epochs


def cost_bounds(budget: BudgetConfig, epochs: int, plan: LanePlan | None, cpus_per_worker: float) -> Bounds:
    """Return the upper bounds on the cost of a sweep.

    The tightest limit bounds CPUs and GPUs, as a trial holds both.

    Args:
        budget: Limits of the sweep, and prices.
        epochs: Epochs of all trials together.
        plan: Lanes and workers; None where not one lane fits.
        cpus_per_worker: CPU cores reserved for each worker.
    """
    if plan is None:
        return Bounds(epochs, budget.wall_clock, budget.cpu_hours, budget.gpu_hours, None)
    cpus, gpus = plan.workers * cpus_per_worker, plan.workers * plan.gpus_per_worker
    limits_s = [
        *([] if budget.wall_clock is None else [budget.wall_clock * plan.lanes]),
        *([] if budget.cpu_hours is None else [budget.cpu_hours * _HOUR_S / cpus]),
        *([] if budget.gpu_hours is None or not gpus else [budget.gpu_hours * _HOUR_S / gpus]),
    ]
    if not limits_s:
        return Bounds(epochs, None, None, None, None)
    cost = Rates(cpus, gpus, budget.price_per_cpu_hour, budget.price_per_gpu_hour).cost(min(limits_s))
    return Bounds(epochs, budget.wall_clock, cost.cpu_s / _HOUR_S, cost.gpu_s / _HOUR_S, cost.price)


def _name_taken(plans: SweepPlans) -> str:
    try:
        new_folder(plans.paths.runs_dir, plans.name)
    except SweepNameError as error:
        return str(error)
    return ""


def _plan(
    resources: ResourcesConfig, trials: int, address: str | None, largest: LargestTrial
) -> tuple[LanePlan | None, str, str]:
    """Return the lanes that fit, the reason why none does, and the place that was planned for."""
    address = address or os.environ.get("RAY_ADDRESS")
    if address is None and not _is_connected():
        share = share_for(_gpus_here(largest), min(resources.lanes or trials, trials))
        return *_fit(resources, trials, [this_machine()], share), "this machine"
    from orchestrator.runtime.ray_session import ray_session

    with ray_session(address):  # one that is open is used, as a sweep would
        place = f"the cluster at {address}" if address else "the cluster this process has joined"
        return *_fit(resources, trials, None, 1.0), place


def _is_connected() -> bool:
    """Return whether this process has joined a cluster; one that has not imported Ray has not, and need not."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def _gpus_here(largest: LargestTrial) -> list[GpuMemory]:
    """Return the memory of this machine's GPUs, with the estimate of what a trial needs of it."""
    import torch

    totals = [torch.cuda.get_device_properties(index).total_memory for index in range(torch.cuda.device_count())]
    return [GpuMemory(largest.footprint.total, total) for total in totals]


def _fit(
    resources: ResourcesConfig, trials: int, nodes: list[Mapping[str, float]] | None, gpu_share: float
) -> tuple[LanePlan | None, str]:
    try:
        return plan_lanes(resources, trials, nodes, gpu_share=gpu_share), ""
    except ClusterError as error:
        return None, str(error)


def this_machine() -> Mapping[str, float]:
    """Return the resources that a private Ray instance would offer here, under Ray's names."""
    import torch

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"CPU": float(os.cpu_count() or 1), "GPU": float(torch.cuda.device_count()), "memory": float(memory)}
