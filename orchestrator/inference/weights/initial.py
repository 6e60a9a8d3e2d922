"""Weights that the trials of a sweep start from: read once by the driver, checked, and stored for all workers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.config.fixed_settings import CHECKPOINT, RANDOM
from orchestrator.config.initial_weights import InitialWeights
from orchestrator.config.plans import SearchPlan, SweepPlans
from orchestrator.config.sections.model import ModelConfig
from orchestrator.config.tasks.networks import facts_of_images
from orchestrator.data.datasets import DatasetFacts
from orchestrator.errors import CheckpointError, ConfigError, Problem
from orchestrator.inference.weights.sources import TIMM, read_source
from search_spaces import setting_of

if TYPE_CHECKING:
    from models import Weights

__all__ = ["FoundWeights", "find_initial_weights"]

Domains = Mapping[str, tuple[Any, ...]]
"""Values of the searched options of a network, in one branch of the search space."""

_MOST_TRIED = 64  # configurations of a network, of which a checkpoint has to fit one


@dataclass(frozen=True)
class _Start:
    """Network with a checkpoint that a trial may start from.

    Args:
        where: Setting that names the checkpoint.
        checkpoint: Source, as written.
        model: Name of the network.
    """

    where: str
    checkpoint: str
    model: str

    @property
    def key(self) -> tuple[str, str]:
        """Key in `SearchPlan.initial_weights`."""
        return self.checkpoint, self.model


@dataclass(frozen=True)
class FoundWeights:
    """Weights of all checkpoints of a sweep.

    Args:
        by_start: Description of the weights by checkpoint and network, as in `SearchPlan`.
        read: Weights by the name of their file; without those that the folder of the sweep has already.
        notes: Tensors that are not used, and what stands in for them, a line for each start.
    """

    by_start: Mapping[tuple[str, str], InitialWeights] = field(default_factory=dict)
    read: Mapping[str, Weights] = field(default_factory=dict, repr=False)
    notes: tuple[str, ...] = ()

    @property
    def identity(self) -> dict[str, str]:
        """Hashes by checkpoint, to be compared when the sweep is resumed."""
        return {_identity_name(*key): f"{found.sha256} ({found.kind})" for key, found in self.by_start.items()}

    def in_plans(self, plans: SweepPlans) -> SweepPlans:
        """Return plans of which trials start from these weights."""
        return replace(plans, search=replace(plans.search, initial_weights=self.by_start))

    def stored(self, folder: Path) -> FoundWeights:
        """Write the weights into the folder of the sweep, which every worker reaches, and return the rest.

        Files that are there already stay.

        Args:
            folder: Folder of the sweep.
        """
        from orchestrator.training.checkpoints.initial_weights import store_initial_weights

        for name, weights in self.read.items():
            store_initial_weights(folder, name, weights)
        return replace(self, read={})


def find_initial_weights(
    plans: SweepPlans, *, folder: Path | None = None, recorded: Mapping[str, Any] | None = None
) -> FoundWeights:
    """Read all checkpoints that trials of a sweep may start from, and check that networks of the sweep take them.

    A checkpoint that is gone is replaced by the copy that an earlier session stored.

    Args:
        plans: Plans of the sweep.
        folder: Folder of a sweep that is resumed.
        recorded: Identity of that sweep in its last session.

    Raises:
        ConfigError: A checkpoint is missing or cannot be read, or no configuration of a network takes it.
    """
    starts: dict[_Start, list[Domains]] = {}
    for start, domains in _starts(plans.search):
        starts.setdefault(start, []).append(domains)
    if not starts:
        return FoundWeights()
    facts = facts_of_images(plans.search.dataset, plans.search.task)
    by_start: dict[tuple[str, str], InitialWeights] = {}
    read: dict[str, Weights] = {}
    problems, notes = [], []
    sources: dict[str, tuple[InitialWeights, Weights | None]] = {}
    for start, branches in starts.items():
        source = _identity_name(*start.key)
        try:
            if source not in sources:
                sources[source] = _read(start, plans, folder, recorded or {})
            found, weights = sources[source]
        except CheckpointError as error:
            problems.append(Problem(start.where, str(error)))
            continue
        by_start[start.key] = found
        if weights is not None:
            read[found.name] = weights
        fault, said = _fault(start.model, branches, plans.search, facts, found)
        if fault:
            problems.append(Problem(start.where, f"{start.checkpoint}: is not of {start.model} here: {fault}"))
        of_file = () if weights is None else weights.notes
        notes += [f"{start.checkpoint} for {start.model}: {text}" for text in (*of_file, *said)]
    if problems:
        raise ConfigError(dict.fromkeys(problems))
    return FoundWeights(by_start, read, tuple(dict.fromkeys(notes)))


def _starts(plan: SearchPlan) -> Iterator[tuple[_Start, Domains]]:
    """Yield every checkpoint that a trial may start from, and the options of its network, branch by branch."""
    fixed = plan.model or ModelConfig(name="")
    if fixed.checkpoint is None and not plan.space.setting(CHECKPOINT):
        return
    for branch in plan.space.branches():
        model = str(branch.get("model", fixed.name))
        active = {name: branch.get(name) for name in plan.space.active(branch)}
        searched = next((name for name in active if setting_of(name) == CHECKPOINT), None)
        values: tuple[Any, ...] = (fixed.checkpoint,)
        if searched is not None:
            values = plan.space[searched].corners() if active[searched] is None else (active[searched],)
        where = f"model.{CHECKPOINT}" if searched is None else f"search.{searched}"
        domains = {
            setting_of(name): plan.space[name].corners() if value is None else (value,)
            for name, value in active.items()
            if name not in ("model", searched)
        }
        yield from ((_Start(where, value, model), domains) for value in values if value not in (None, RANDOM))


def _read(
    start: _Start, plans: SweepPlans, folder: Path | None, recorded: Mapping[str, Any]
) -> tuple[InitialWeights, Weights | None]:
    """Return the description of a checkpoint and its weights: of the source or, where it is gone, of the stored copy.

    Raises:
        CheckpointError: Neither can be read.
    """
    from orchestrator.training.checkpoints.initial_weights import read_stored_weights, stored_path

    kind = None if plans.search.model is None else plans.search.model.checkpoint_weights
    try:
        found = read_source(start.checkpoint, model=start.model, kind=kind, tracking_uri=plans.tracking.uri)
    except CheckpointError:
        sha256, _, stored_kind = str(recorded.get(_identity_name(*start.key), "")).partition(" ")
        before = InitialWeights(sha256, stored_kind.strip("()"), {})
        if folder is None or not sha256 or kind not in (None, before.kind):
            raise
        if not stored_path(folder, before.name).exists():
            raise
        return replace(before, shapes=read_stored_weights(folder, before.name).shapes), None
    return InitialWeights(found.sha256, found.weights.kind, found.weights.shapes), found.weights


def _fault(
    model: str, branches: Sequence[Domains], plan: SearchPlan, facts: DatasetFacts, found: InitialWeights
) -> tuple[str, tuple[str, ...]]:
    """Return why no configuration of a network takes a checkpoint, empty where one does, and the notes about that one.

    Configurations that do not take it are left to the search, which rejects them.
    """
    import models
    from orchestrator.config.sections.training import TrainingConfig
    from orchestrator.training.checkpoints.checkpoints import describe_network
    from orchestrator.training.checkpoints.initial_weights import fit_fault

    fixed = plan.model.options if plan.model else {}
    tried: list[dict[str, Any]] = []
    for domains in branches:
        searched = {name: values for name, values in domains.items() if name not in TrainingConfig.model_fields}
        base = {**fixed, **{name: values[0] for name, values in searched.items()}}
        tried += [base, *({**base, name: value} for name, values in searched.items() for value in values[1:])]
    first = ""
    for options in tried[:_MOST_TRIED]:
        description = describe_network(
            ModelConfig(name=model, options=models.options_to_record(model, options)),
            num_classes=facts.num_classes,
            in_chans=facts.in_chans,
            image_size=facts.image_size,
            task=plan.task,
        )
        try:
            fault, notes = fit_fault(description, found.shapes)
        except models.ModelOptionError:
            continue  # options that do not go together
        if not fault:
            return "", notes
        first = first or fault
    return first, ()


def _identity_name(checkpoint: str, model: str) -> str:
    return f"checkpoint {checkpoint} of {model}" if checkpoint.startswith(TIMM) else f"checkpoint {checkpoint}"
