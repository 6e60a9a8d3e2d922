"""The settings of a sweep, as typed, frozen sections.

The same classes are built from Python, from YAML and from `--set`. Rules that concern more than one section are in
`orchestrator.config.validation`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Protocol

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PlainSerializer,
    PlainValidator,
    PositiveFloat,
    PositiveInt,
    PrivateAttr,
    Strict,
    StrictBool,
)

from orchestrator.config.named_space import SpaceUse, corner_values, expand_space
from orchestrator.config.sections.budget import BudgetConfig
from orchestrator.config.sections.first_trials import PAPERS, TryFirst
from orchestrator.config.sections.limits import LimitsConfig
from orchestrator.config.sections.objective import COSTS, ObjectiveConfig, parse_constraint
from orchestrator.config.sections.path_text import LocationText, PathText
from orchestrator.config.sections.section import Section
from orchestrator.config.sections.study import SamplerConfig, StorageConfig, TrialSchedulerConfig
from orchestrator.config.sections.training import TrainingConfig
from orchestrator.config.validation.plain_data import plain_data_problems
from orchestrator.errors import ConfigError
from orchestrator.uris import remember_secrets
from search_spaces import Domain, Scalar, SearchSpace, setting_of

Flags = Annotated[tuple[StrictBool, ...], Strict(strict=False)]
"""One bool per stage of a network; YAML writes a list."""


def _workers(given: Any) -> int | tuple[int, int]:
    ends = list(given) if isinstance(given, list | tuple) else [given, given]
    if len(ends) != 2 or any(type(end) is not int or end < 1 for end in ends) or ends[0] > ends[1]:
        raise ValueError("must be a number of workers, or the least and the most of them. Use 2, or [2, 8]")
    return (ends[0], ends[1]) if isinstance(given, list | tuple) else ends[0]


Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""What NumPy, Optuna and PyTorch all take."""

WorkerCount = Annotated[int | tuple[int, int], PlainValidator(_workers), PlainSerializer(lambda given: given, Any)]
"""So many, or the least and the most."""


class DatasetConfig(Section):
    """Which images, and how they are split. They have a name or a URI.

    Args:
        name: A registered dataset.
        uri: A dataset that `spatialsweep data prepare` made: a folder, or an object store.
        validation_fraction: Share of the training images held out for validation, drawn per class.
        split_seed: Seed of that draw; the same for every trial of a sweep.
        select_on: `test` chooses epochs and trials on the test images, as many papers' scripts do, and trains on all
            others. The accuracy found so is too good, and results say it.
        image_size: Side of the square that image files are cropped to, in pixels; None is 224. Small images keep
            their size.
        crop_pct: Share of the shorter side of an image file that is kept to evaluate it.
        interpolation: Of image files; `random` draws one of the others for each training image.
        decode_processes: Processes of each worker that decode image files.
    """

    name: str | None = None
    uri: LocationText | None = None
    validation_fraction: float = Field(0.2, gt=0, lt=1)
    split_seed: Seed = 0
    select_on: Literal["validation", "test"] = "validation"
    image_size: PositiveInt | None = None
    crop_pct: float = Field(0.875, gt=0, le=1)
    interpolation: Literal["bilinear", "bicubic", "random"] = "bicubic"
    decode_processes: NonNegativeInt = 4

    @property
    def crop_size(self) -> int:
        """Side of the square that image files are cropped to, in pixels."""
        return self.image_size or 224


class ModelConfig(Section):
    """A network and the options that the search leaves alone.

    Args:
        name: A registered network, such as `adaptive_resnet26_small`.
        options: Keyword arguments of `timm.create_model`.
    """

    name: str
    options: Mapping[str, Scalar | Flags] = {}


BYTES_PER_GB = 2**30


class ResourcesConfig(Section):
    """What one trial trains on.

    Args:
        workers: DDP ranks of a trial; of `[least, most]` as many as there is room for, also when that changes.
        cpus_per_worker: CPU cores reserved for each.
        gpus_per_worker: GPUs reserved for each; None takes one where the cluster has any.
        memory_gb_per_worker: Memory reserved for each, in units of 2^30 bytes; None reserves none.
        lanes: Trials that train at the same time, at most; None takes as many as the cluster holds.
        max_failures: Crashes after which a trial goes on from its last checkpoint; preemptions do not count.
    """

    workers: WorkerCount = 2
    cpus_per_worker: PositiveFloat = 1.0
    gpus_per_worker: NonNegativeFloat | None = None
    memory_gb_per_worker: PositiveFloat | None = None
    lanes: PositiveInt | None = None
    max_failures: NonNegativeInt = 1

    @property
    def elastic(self) -> bool:
        """Whether the number of workers follows the cluster."""
        return self.min_workers < self.max_workers

    @property
    def min_workers(self) -> int:
        """Fewest ranks a trial trains on."""
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def max_workers(self) -> int:
        """Most ranks a trial trains on."""
        return self.workers if isinstance(self.workers, int) else self.workers[1]

    def per_worker(self, gpus: float) -> dict[str, float]:
        """Ray's words for what one worker reserves.

        Args:
            gpus: `gpus_per_worker`, resolved against the cluster.
        """
        reserved = {"CPU": self.cpus_per_worker}
        if gpus:
            reserved["GPU"] = gpus
        if self.memory_gb_per_worker:
            reserved["memory"] = self.memory_gb_per_worker * BYTES_PER_GB
        return reserved


class TrackingConfig(Section):
    """Where runs are recorded.

    Args:
        uri: An MLflow tracking URI; None keeps a database beneath `runs_dir`.
        experiment: MLflow experiment the sweep's runs belong to.
    """

    uri: str | None = None
    experiment: str = "spatialsweep"


class KeepConfig(Section):
    """Which checkpoints stay on disk once their trials are over; those of the best trials go to MLflow as well.

    Args:
        best: Trials whose best weights are kept.
        last: Trials, the newest to have ended, whose checkpoints are all kept, those to continue from as well.
    """

    best: PositiveInt = 3
    last: NonNegativeInt = 1


SweepName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]


Texts = Annotated[tuple[str, ...], Strict(strict=False)]
"""YAML writes a list."""


def _as_list(raw: Any) -> Any:
    return raw if isinstance(raw, list | tuple) else (raw,)


def _as_written(objectives: tuple[ObjectiveConfig, ...]) -> Any:
    """A single objective is written without a list."""
    written = [objective.model_dump() for objective in objectives]
    return written[0] if len(written) == 1 else written


ObjectiveList = Annotated[
    tuple[ObjectiveConfig, ...],
    Strict(strict=False),
    Field(min_length=1),
    BeforeValidator(_as_list),
    PlainSerializer(_as_written),
]
"""One objective, or a list of them."""


class SweepConfig(Section):
    """A whole sweep: what is trained, what is searched, for how long, on what.

    Beside its fields it takes `space`, a name of `search_spaces.list_spaces()`: the domains of that space for the
    networks of the sweep, without those of settings that `training` or `model.options` fix, and in which `search`
    replaces what it names. They are kept as `search`, written out.

    Args:
        name: Of the sweep, its folder and its study; used once.
        dataset: Images and split.
        search: Searched names and their domains: `model`, fields of `training`, options of the networks.
        model: The network, when it is not searched, and fixed options.
        training: Values of what is not searched.
        trials: Configurations to try.
        budget: What ends the sweep before, and what devices cost.
        limits: What a network may have; configurations beyond are rejected before they cost a trial.
        try_first: What is tried before the sampler proposes anything: `papers` for the papers' own values, or
            configurations by hand, whose other values the sampler draws.
        warm_start: Earlier sweeps in the same Optuna database, whose best configurations are tried first as well.
        recipe: The published set-up it runs, of `spatialsweep recipes`, whose number stands beside ours in the report.
        seed: Of the sampler, the initial weights and the order of the images.
        objective: What is maximised or minimised; of a list, the first one chooses the best epoch and stops trials.
        constraints: Bounds such as `params <= 2e6`; a trial beyond one is not the best, whatever its value.
        sampler: How configurations are proposed.
        trial_scheduler: Which trials are stopped early.
        resources: Workers of a trial, and lanes.
        storage: Optuna's database.
        tracking: MLflow.
        keep: Checkpoints that stay.
        runs_dir: Folder of all results; None takes `runs` here, or one in the home folder inside a Ray job.

    Raises:
        ConfigError: With every fault of every section.
    """

    name: SweepName
    dataset: DatasetConfig
    search: Mapping[str, Domain] = {}
    model: ModelConfig | None = None
    training: TrainingConfig = TrainingConfig()
    trials: PositiveInt = 20
    budget: BudgetConfig = BudgetConfig()
    limits: LimitsConfig = LimitsConfig()
    try_first: TryFirst = PAPERS
    warm_start: Texts = ()
    recipe: str | None = None
    seed: Seed = 0
    objectives: ObjectiveList = Field((ObjectiveConfig(),), alias="objective")
    constraints: Texts = ()
    sampler: SamplerConfig = SamplerConfig()
    trial_scheduler: TrialSchedulerConfig = TrialSchedulerConfig()
    resources: ResourcesConfig = ResourcesConfig()
    storage: StorageConfig = StorageConfig()
    tracking: TrackingConfig = TrackingConfig()
    keep: KeepConfig = KeepConfig()
    runs_dir: PathText | None = None

    model_config = ConfigDict(serialize_by_alias=True)
    _space_use: SpaceUse = PrivateAttr(default_factory=SpaceUse)

    def __init__(self, /, **values: Any) -> None:
        from orchestrator.config.validation.check import find_problems

        if unreadable := plain_data_problems(values):
            raise ConfigError(unreadable)
        remember_secrets(section.get("uri") for section in values.values() if isinstance(section, Mapping))
        expanded = expand_space(values)
        problems = [*expanded.problems, *find_problems(expanded.settings)]
        if problems:
            raise ConfigError(problems)
        super().__init__(**expanded.settings)
        self._space_use = expanded.use

    @property
    def space_use(self) -> SpaceUse:
        """What became of the space that `space` named; of no consequence once the domains are written out."""
        return self._space_use

    @property
    def space(self) -> SearchSpace:
        """The searched domains with their conditions resolved."""
        return SearchSpace(self.search)

    @property
    def objective(self) -> ObjectiveConfig:
        """The first objective: it chooses the best epoch of a trial and stops trials early."""
        return self.objectives[0]

    @property
    def measured_costs(self) -> frozenset[str]:
        """Costs of a network that an objective or a constraint asks for."""
        asked = {objective.metric for objective in self.objectives}
        asked |= {parse_constraint(text).metric for text in self.constraints}
        return frozenset(asked & COSTS.keys())

    @property
    def max_epochs(self) -> int:
        """Epochs of the longest trial."""
        return max_epochs(self.training, self.search)


def max_epochs(training: TrainingConfig, search: Mapping[str, Domain]) -> int:
    """Epochs of the longest trial: those of `training`, unless they are searched."""
    searched = [value for value in corner_values("epochs", search) if isinstance(value, int)]
    return max(searched, default=training.epochs)


class TrialConfig(Section):
    """One configuration, complete: all a worker needs to know to train it.

    Args:
        number: Optuna's number of the trial, from 0.
        model: The network and every option.
        training: Every training setting.
        seed: Seed of weights and order.
    """

    number: NonNegativeInt
    model: ModelConfig
    training: TrainingConfig
    seed: Seed


class SharedSettings(Protocol):
    """Settings that all trials of a sweep share: part of `SweepConfig` and of `SearchPlan`."""

    @property
    def model(self) -> ModelConfig | None:
        """Fixed network and options."""

    @property
    def training(self) -> TrainingConfig:
        """Fixed training settings."""

    @property
    def seed(self) -> int:
        """Seed of weights and order."""


def resolve_trial(shared: SharedSettings, number: int, params: Mapping[str, Any]) -> TrialConfig:
    """Return the configuration of a trial: its searched values laid over the fixed ones.

    Args:
        shared: Settings that all trials of the sweep share.
        number: Optuna's number of the trial.
        params: Values drawn from the space of the sweep.
    """
    fixed = shared.model or ModelConfig(name="", options={})
    settings = {setting_of(name): value for name, value in params.items()}
    name = str(settings.pop("model", fixed.name))
    training = {key: value for key, value in settings.items() if key in TrainingConfig.model_fields}
    options = {key: value for key, value in settings.items() if key not in training}
    return TrialConfig(
        number=number,
        model=ModelConfig(name=name, options={**fixed.options, **options}),
        training=TrainingConfig(**{**shared.training.model_dump(), **training}),
        seed=shared.seed,
    )
