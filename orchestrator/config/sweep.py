"""The configuration of a sweep: all sections together.

The same class is built from Python, from YAML and from `--set`. Rules that concern more than one section are in
`orchestrator.config.validation`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field, PositiveInt, PrivateAttr

from orchestrator.config.fixed_settings import written
from orchestrator.config.named_space import SpaceUse, expand_space
from orchestrator.config.network_files import NetworkFiles, read_network_files
from orchestrator.config.searched_values import max_epochs
from orchestrator.config.sections.budget import BudgetConfig
from orchestrator.config.sections.dataset import DatasetConfig
from orchestrator.config.sections.first_trials import PAPERS, TryFirst
from orchestrator.config.sections.keep import KeepConfig
from orchestrator.config.sections.limits import LimitsConfig
from orchestrator.config.sections.model import ModelConfig
from orchestrator.config.sections.objective import COSTS, ObjectiveConfig, ObjectiveList, parse_constraint
from orchestrator.config.sections.path_text import PathText
from orchestrator.config.sections.resources import ResourcesConfig
from orchestrator.config.sections.section import Section, Seed, Texts
from orchestrator.config.sections.study import SamplerConfig, StorageConfig, TrialSchedulerConfig
from orchestrator.config.sections.tracking import NotifyConfig, TrackingConfig
from orchestrator.config.sections.training import TrainingConfig
from orchestrator.config.strategy import StrategyUse, expand_strategy
from orchestrator.config.tasks.defaults import with_task_defaults
from orchestrator.config.tasks.registry import DEFAULT_TASK
from orchestrator.config.validation.check import find_problems, section_class
from orchestrator.config.validation.plain_data import plain_data_problems
from orchestrator.errors import ConfigError
from orchestrator.uris import remember_secrets
from search_spaces import Domain, SearchSpace

Seeds = Annotated[int, Field(ge=1, le=100)]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def _check_name(name: str) -> str:
    if _NAME.fullmatch(name):
        return name
    near = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-_")[:64]
    remedy = f". Use {near}" if near else ""
    raise ValueError(f"must be 1 to 64 letters, digits, '-' and '_', the first a letter or a digit{remedy}")


SweepName = Annotated[str, AfterValidator(_check_name)]


def _without_nulls(values: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the settings that are null, in a sweep and in its sections: they have their defaults.

    Names that nobody knows stay, to be reported; so do those of domains and of options.
    """
    sections = {
        field.alias or name: section_class(field.annotation) for name, field in SweepConfig.model_fields.items()
    }
    kept = {}
    for name, value in values.items():
        if value is None and name in sections:
            continue
        known = section.model_fields if (section := sections.get(name)) and isinstance(value, Mapping) else ()
        kept[name] = (
            {key: inner for key, inner in value.items() if inner is not None or key not in known} if known else value
        )
    return kept


class SweepConfig(Section):
    """A whole sweep: network and dataset, search space, limits and resources.

    In addition to its fields it takes `space`, a name of `search_spaces.list_spaces()`: the domains of that space for
    the networks of the sweep, without those of settings that `training` or `model.options` fix, and in which `search`
    replaces the domains that it names. The result is kept in `search`, written out. It also takes `strategy`, which is
    kept as the names of sampler and trial scheduler: `auto`, or a text such as `tpe`, `asha` or `tpe+asha`.

    Args:
        name: Name of the sweep, its folder and its study; used once.
        dataset: Images and their splits.
        task: What the networks learn, such as `classification`; it sets `objective` and `training.loss` as well, where
            the sweep leaves them out.
        search: Searched names and their domains: `model`, `checkpoint`, fields of `training`, options of the
            networks.
        model: The network, when it is not searched, and its fixed options.
        training: Values of the settings that are not searched.
        trials: Number of configurations to try.
        budget: Limits that end the sweep earlier, and prices of devices.
        limits: Bounds on the size of a network; larger configurations are rejected before they cost a trial.
        try_first: Configurations tried before the sampler proposes any: `papers` for the papers' own values, or
            configurations by hand, whose other values the sampler draws.
        warm_start: Earlier sweeps in the same Optuna database, whose best configurations are tried first as well.
        recipe: Published set-up that the sweep runs, a name of `spatialsweep recipes`; the report compares with its
            published numbers.
        seed: Seed of the sampler, the initial weights and the order of the images.
        seeds: Number of seeds with which the configurations that may be the best are trained.
        tournament: Searched name whose choices are compared: each gets the same number of configurations, and its best
            one is trained with all seeds.
        objective: Metric to maximise or minimise; of a list, the first one chooses the best epoch and stops trials.
        constraints: Bounds such as `params <= 2e6`; a trial that violates one is never the best.
        sampler: Optuna's sampler.
        trial_scheduler: Rule that stops trials early.
        resources: Workers of a trial, and lanes.
        storage: Optuna's database.
        tracking: MLflow.
        notify: Webhooks that get a message when something happens; an address, a list of them, or with events.
        keep: Number of checkpoints that are kept.
        runs_dir: Folder of all results; None takes `runs` in the current folder, or one in the home folder inside a
            Ray job.

    Raises:
        ConfigError: At least one setting is wrong; it lists every problem of every section.
    """

    name: SweepName
    dataset: DatasetConfig
    task: str = DEFAULT_TASK
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
    seeds: Seeds = 1
    tournament: str | None = None
    objectives: ObjectiveList = Field((ObjectiveConfig(),), alias="objective")
    constraints: Texts = ()
    sampler: SamplerConfig = SamplerConfig()
    trial_scheduler: TrialSchedulerConfig = TrialSchedulerConfig()
    resources: ResourcesConfig = ResourcesConfig()
    storage: StorageConfig = StorageConfig()
    tracking: TrackingConfig = TrackingConfig()
    notify: NotifyConfig = NotifyConfig()
    keep: KeepConfig = KeepConfig()
    runs_dir: PathText | None = None

    model_config = ConfigDict(serialize_by_alias=True)
    _space_use: SpaceUse = PrivateAttr(default_factory=SpaceUse)
    _strategy_use: StrategyUse = PrivateAttr(default_factory=StrategyUse)
    _network_files: NetworkFiles = PrivateAttr(default_factory=NetworkFiles)

    def __init__(self, /, **values: Any) -> None:
        if unreadable := plain_data_problems(values):
            raise ConfigError(unreadable)
        # Of a section given as an object, what was not written is left open, as in a file.
        values = _without_nulls(
            {name: written(value) if isinstance(value, Section) else value for name, value in values.items()}
        )
        remember_secrets(section.get("uri") for section in values.values() if isinstance(section, Mapping))
        network_files, unread = read_network_files(values)
        chosen = expand_strategy(with_task_defaults(values))
        expanded = expand_space(chosen.settings)
        problems = [
            *unread,
            *chosen.problems,
            *expanded.problems,
            *find_problems(expanded.settings, type(self).model_fields),
        ]
        if problems:
            raise ConfigError(problems)
        super().__init__(**expanded.settings)
        self._space_use = expanded.use
        self._strategy_use = chosen.use
        self._network_files = network_files

    @property
    def space_use(self) -> SpaceUse:
        """Record of how the space named by `space` was applied; irrelevant once the domains are written out."""
        return self._space_use

    @property
    def strategy_use(self) -> StrategyUse:
        """Record of how `strategy` was applied; irrelevant once the names are written out."""
        return self._strategy_use

    @property
    def network_files(self) -> NetworkFiles:
        """Files of the networks that the sweep names as `FILE.py:FACTORY`, as they were when it was checked."""
        return self._network_files

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
        """Costs of a network that an objective or a constraint uses."""
        used = {objective.metric for objective in self.objectives}
        used |= {parse_constraint(text).metric for text in self.constraints}
        return frozenset(used & COSTS.keys())

    @property
    def max_epochs(self) -> int:
        """Number of epochs of the longest trial."""
        return max_epochs(self.training, self.search)
