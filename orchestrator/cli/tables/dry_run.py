"""Output of `--dry-run`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from orchestrator.config.plans import SearchPlan
from orchestrator.config.searched_values import Setting
from orchestrator.config.sections.training import AUTO
from orchestrator.config.settings_text import as_yaml
from orchestrator.disk_space import as_size
from orchestrator.plain_output import add_row, say
from orchestrator.records.budget import as_duration
from orchestrator.runtime.mps import mps_runs
from orchestrator.sweep.dry_run import DryRun
from orchestrator.sweep.dry_run_trials import LargestTrial


def print_dry_run(found: DryRun, console: Console) -> None:
    """Print the plan of a sweep."""
    settings = as_yaml(found.non_default, default_flow_style=None, width=120)
    say(console, f"{found.plans.name} is valid. Nothing was started. Its settings, without defaults:\n\n{settings}")
    for heading, text in found.space:
        say(console, f"{heading:<9}{text}")
    for line in (*found.strategy, *found.checkpoints, *found.tried_first):
        say(console, line)
    console.print(_proposals(found))
    if not all(proposal.certain for proposal in found.proposals):
        say(console, "* depends on the results of earlier trials")
    if found.rejected:
        say(console, f"Rejected before a trial: {found.rejected}")
    for heading, text in plan_lines(found):
        say(console, f"{heading:<9}{text}")


def _proposals(found: DryRun) -> Table:
    shown = len(found.proposals)
    title = f"The first {shown} of at most {found.plans.search.trials} trials"
    table = Table(title=title, title_justify="left")
    for heading in ("trial", "network", "parameters", "MACs", "epochs", "searched"):
        right = heading not in ("network", "searched")
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    for proposal in found.proposals:
        add_row(
            table,
            f"{proposal.number}{'' if proposal.certain else '*'}",
            proposal.model,
            f"{proposal.params:,}",
            f"{proposal.macs:,}",
            str(proposal.epochs),
            _values(proposal.values) + (f" ({proposal.source})" if proposal.source else ""),
        )
    return table


def plan_lines(found: DryRun, *, with_name: bool = True) -> list[tuple[str, str]]:
    """Return lanes, memory, epochs and cost of a sweep, each under a heading.

    Args:
        found: Result of the dry run.
        with_name: Whether to say that the name of the sweep is taken.
    """
    plan, bounds, search = found.plan, found.bounds, found.plans.search
    lanes = f"none: {found.plan_problem}"
    if plan is not None:
        device = f"{plan.gpus_per_worker:g} GPU" if plan.gpus_per_worker else "no GPU"
        each = f"{plan.workers} worker(s), each of {found.plans.training.resources.cpus_per_worker:g} CPU and {device}"
        lanes = f"{plan.lanes} on {found.place}: trials at the same time, on {each}"
    return [
        ("Lanes", lanes),
        *(("GPU", text) for text in _gpu_share(found)),
        *(("Batch", text) for text in _batch(found)),
        ("Memory", _memory(found.largest)),
        (
            "Epochs",
            f"{bounds.epochs:,} at most: {search.trials} trials of {search.max_epochs}{_seeds(search)}{_steps(search)}",
        ),
        ("Cost", _cost(found)),
        *([("Name", found.notice)] if found.notice and with_name else []),
    ]


def _gpu_share(found: DryRun) -> Iterator[str]:
    """Yield how trials share GPUs; nothing where each has its own, or none."""
    wanted = found.plans.training.resources.gpus_per_worker
    share = 0.0 if found.plan is None else found.plan.gpus_per_worker
    if wanted == AUTO:
        yield (
            "gpus_per_worker: auto is measured when the sweep starts, by steps of the largest configuration on a GPU; "
            + (f"{share:g} is an estimate" if share else f"{found.place} has none, so trials train on CPUs")
        )
    if 0 < share < 1:
        each = f"{int(1 / share)} trials on each, and each may take {share:.0%} of its memory"
        served = "NVIDIA's MPS runs here" if mps_runs() else "without NVIDIA's MPS here, their kernels take turns"
        yield f"{each}; {served}"


def _batch(found: DryRun) -> Iterator[str]:
    """Yield how memory decides the batch; nothing where the settings do."""
    search = found.plans.search
    training, workers = search.training, search.workers
    if training.global_batch_size == AUTO:
        yield (
            f"found at the start of each trial: the largest power of two times {workers} worker(s) that fits, at most "
            f"{training.max_global_batch_size:,} images (Memory is for that many)"
        )
    answers = Setting.of("on_out_of_memory", training, search.space).values
    if any(answer != "fail" for answer in answers):
        norms = "also with" if "accumulate_always" in answers else "not in networks with"
        yield f"a step that runs out of memory is computed again in twice as many parts ({norms} batch norms)"


def _steps(search: SearchPlan) -> str:
    """Return the length of an epoch; empty where it is a pass over the training images."""
    lengths = [steps for steps in Setting.of("epoch_steps", search.training, search.space).values if steps is not None]
    return f"; an epoch has {' or '.join(f'{steps:,}' for steps in lengths)} steps" if lengths else ""


def _seeds(search: SearchPlan) -> str:
    """Return which configurations get further seeds; empty where none does."""
    if search.seeds == 1:
        return ""
    which = "those that may be the best" if search.tournament is None else f"the best of each {search.tournament}"
    return f", and {search.seeds - 1} more seed{'' if search.seeds == 2 else 's'} for {which}"


def _memory(largest: LargestTrial) -> str:
    needs = largest.footprint
    parts = {
        "weights": needs.weights,
        "gradients": needs.gradients,
        "optimiser": needs.optimizer,
        "average": needs.average,
        f"activations of {needs.images_at_once} images": needs.activations,
        "images": needs.images,
    }
    terms = " + ".join(f"{as_size(size)} {name}" for name, size in parts.items() if size)
    return (
        f"about {as_size(needs.total)} a worker for the largest of {largest.looked_at} configurations, "
        f"{largest.model} ({largest.params:,} parameters): {terms}; besides what torch itself needs"
    )


def _cost(found: DryRun) -> str:
    bounds = found.bounds
    parts = [
        *([f"{as_duration(bounds.wall_s)} by the clock"] if bounds.wall_s is not None else []),
        *([f"{bounds.cpu_hours:.3g} CPU-hours"] if bounds.cpu_hours is not None else []),
        *([f"{bounds.gpu_hours:.3g} GPU-hours"] if bounds.gpu_hours else []),
        *([f"price {bounds.price:.2f}"] if bounds.price is not None else []),
    ]
    if not parts:
        return "not bounded; set budget.wall_clock, budget.cpu_hours or budget.gpu_hours"
    return f"at most {', '.join(parts)}, and the epoch that each lane then ends"


def _values(values: Mapping[str, Any]) -> str:
    return " ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in values.items() if k != "model")
