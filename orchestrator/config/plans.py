"""Plans of a sweep: its configuration, resolved once into the narrow, frozen parts that other packages take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from orchestrator.config.initial_weights import InitialWeights
from orchestrator.config.named_space import SpaceUse
from orchestrator.config.searched_values import max_epochs
from orchestrator.config.sections.budget import BudgetConfig
from orchestrator.config.sections.dataset import DatasetConfig
from orchestrator.config.sections.keep import KeepConfig
from orchestrator.config.sections.limits import LimitsConfig
from orchestrator.config.sections.model import ModelConfig
from orchestrator.config.sections.objective import ObjectiveConfig
from orchestrator.config.sections.resources import ResourcesConfig
from orchestrator.config.sections.study import SamplerConfig, StorageConfig, TrialSchedulerConfig
from orchestrator.config.sections.tracking import NotifyConfig, TrackingConfig
from orchestrator.config.sections.training import TrainingConfig
from orchestrator.config.sweep import SweepConfig
from orchestrator.config.tasks.registry import DEFAULT_TASK, task_facts
from orchestrator.files.runs_dir import resolve_runs_dir
from orchestrator.server_addresses import embedded_study_uri, embedded_uri
from search_spaces import Scalar, SearchSpace


@dataclass(frozen=True)
class SearchPlan:
    """Search of a sweep: its space, its fixed values, its objectives, and the order in which it tries trials.

    Args:
        trials: Number of trials.
        seed: Seed of the sampler, of the initial weights and of the order of the images.
        space: Searched domains with their conditions resolved.
        searched: Searched names in the order they are written in.
        space_use: Settings that the named space varies, and those that the sweep fixes.
        model: Fixed network and fixed options; None where the network is searched and no option is fixed.
        training: Fixed training settings.
        dataset: Dataset, split and image size.
        workers: Largest number of ranks of a trial.
        limits: Upper bounds of a network.
        objectives: Objectives; the first one chooses the best epoch of a trial and stops trials early.
        constraints: Bounds on metrics, such as `params <= 2e6`.
        sampler: Sampler and its options.
        trial_scheduler: Trial scheduler and its options.
        try_first: `papers`, or configurations given by hand, that are tried before the sampler proposes any.
        seeds: Number of seeds with which the configurations that may be the best are trained.
        tournament: Searched name whose choices get equal numbers of configurations and of seeds; None without one.
        warm_start: Earlier sweeps whose best configurations are tried first as well.
        budget_epochs: Epochs that all trials may train together; None for no limit.
        initial_weights: Weights that trainings may start from, by checkpoint and network; `resolve_plans`, which reads
            no file, leaves it empty.
        stored_choices: Values with which the study has stored each choice, by searched name; empty where the space has
            not changed since the sweep began.
        task: Name of the task.
    """

    trials: int
    seed: int
    space: SearchSpace
    searched: tuple[str, ...]
    space_use: SpaceUse
    model: ModelConfig | None
    training: TrainingConfig
    dataset: DatasetConfig
    workers: int
    limits: LimitsConfig
    objectives: tuple[ObjectiveConfig, ...]
    constraints: tuple[str, ...]
    sampler: SamplerConfig
    trial_scheduler: TrialSchedulerConfig
    try_first: Literal["papers"] | tuple[Mapping[str, Scalar], ...]
    warm_start: tuple[str, ...]
    budget_epochs: int | None = None
    initial_weights: Mapping[tuple[str, str], InitialWeights] = field(default_factory=dict)
    seeds: int = 1
    tournament: str | None = None
    stored_choices: Mapping[str, tuple[Scalar, ...]] = field(default_factory=dict)
    task: str = DEFAULT_TASK

    @property
    def objective(self) -> ObjectiveConfig:
        """First objective."""
        return self.objectives[0]

    @property
    def max_epochs(self) -> int:
        """Epochs of the longest trial."""
        return max_epochs(self.training, self.space)

    @property
    def annotation(self) -> str:
        """Kind of annotation that the task reads; empty for images with one label each."""
        return task_facts(self.task).annotation


@dataclass(frozen=True)
class TrainingPlan:
    """Settings that all lanes of a sweep share.

    Args:
        resources: Resources of one trial.
        dataset: Dataset, split and image size.
        objective: Objective that chooses the best epoch.
        costs: Costs of a network that trials measure and report.
        network_files: Source code of the networks' files, by name.
        task: Name of the task.
    """

    resources: ResourcesConfig
    dataset: DatasetConfig
    objective: ObjectiveConfig
    costs: frozenset[str]
    network_files: Mapping[str, str]
    task: str = DEFAULT_TASK


@dataclass(frozen=True)
class TrackingPlan:
    """Place of a sweep's runs in MLflow.

    Args:
        uri: Tracking URI; may hold a password.
        experiment: MLflow experiment.
        artifacts: Folder of the artifacts where MLflow is a database file.
    """

    uri: str
    experiment: str
    artifacts: Path


@dataclass(frozen=True)
class PathsPlan:
    """Places of a sweep's files and of its study.

    Args:
        runs_dir: Folder of all results.
        datasets: Folder of the Arrow files of named datasets.
        study_uri: Database of the Optuna studies; may hold a password.
    """

    runs_dir: Path
    datasets: Path
    study_uri: str


@dataclass(frozen=True)
class SweepPlans:
    """All plans of a sweep.

    Args:
        name: Name of the sweep, its folder and its study.
        search: Search plan.
        training: Training plan.
        budget: Limits that end the sweep early, and prices of devices.
        keep: Numbers of trials whose checkpoints stay.
        tracking: Tracking plan.
        notify: Webhooks and events that they get.
        paths: Paths plan.
    """

    name: str
    search: SearchPlan
    training: TrainingPlan
    budget: BudgetConfig
    keep: KeepConfig
    tracking: TrackingPlan
    notify: NotifyConfig
    paths: PathsPlan


def resolve_plans(config: SweepConfig) -> SweepPlans:
    """Resolve the plans of a sweep; reads no file.

    Args:
        config: Checked configuration of the sweep.
    """
    runs_dir = resolve_runs_dir(config.runs_dir)
    search = SearchPlan(
        trials=config.trials,
        seed=config.seed,
        space=config.space,
        searched=tuple(config.search),
        space_use=config.space_use,
        model=config.model,
        training=config.training,
        dataset=config.dataset,
        workers=config.resources.max_workers,
        limits=config.limits,
        objectives=config.objectives,
        constraints=config.constraints,
        sampler=config.sampler,
        trial_scheduler=config.trial_scheduler,
        try_first=config.try_first,
        warm_start=config.warm_start,
        seeds=config.seeds,
        tournament=config.tournament,
        budget_epochs=config.budget.epochs,
        task=config.task,
    )
    return SweepPlans(
        name=config.name,
        search=search,
        training=TrainingPlan(
            config.resources,
            config.dataset,
            config.objective,
            config.measured_costs,
            config.network_files.texts,
            config.task,
        ),
        budget=config.budget,
        keep=config.keep,
        tracking=resolve_tracking(config.tracking, runs_dir),
        notify=config.notify,
        paths=PathsPlan(runs_dir, runs_dir / "datasets", study_uri(config.storage, runs_dir)),
    )


def resolve_tracking(tracking: TrackingConfig, runs_dir: Path) -> TrackingPlan:
    """Resolve the place of a sweep's runs; a database file in `runs_dir` where no server is named.

    Args:
        tracking: Section `tracking` of the configuration.
        runs_dir: Folder of all results.
    """
    return TrackingPlan(tracking.uri or embedded_uri(runs_dir), tracking.experiment, runs_dir / "artifacts")


def study_uri(storage: StorageConfig, runs_dir: Path) -> str:
    """Return the address of the database of the studies, which may hold a password.

    Args:
        storage: Section `storage` of the configuration.
        runs_dir: Folder of all results.
    """
    return storage.uri or embedded_study_uri(runs_dir)
