"""What a sweep tries before its sampler proposes anything: the papers' own values, and the best of earlier sweeps.

Each such configuration is cut down to what this sweep searches; the sampler draws what it leaves open.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from orchestrator.config.fixed_settings import fixed_settings, shown
from orchestrator.config.sections.first_trials import PAPERS
from orchestrator.config.sweep import SweepConfig
from orchestrator.config.trial import resolve_trial
from orchestrator.errors import ConfigError, Problem, did_you_mean
from orchestrator.search.trial_filter import Validity
from search_spaces import ConstantDomain, Domain, FloatDomain, IntDomain, kind_of, paper_settings, setting_of

SOURCE = "source"
"""User attribute of such a trial: where its values come from."""
_FIXED = "fixed_settings"  # user attribute of a study: what was not searched
_BEST_OF_EACH = 3
_MEANT_FOR_OPTIMIZER = ("lr", "weight_decay")
_SGD = {"sgd", "momentum", "nesterov"}  # the same learning rates suit them


@dataclass(frozen=True)
class FirstTrial:
    """A configuration that is tried first.

    Args:
        source: Where its values come from.
        params: Values by searched name; the sampler draws the others.
        left_out: Why a value of the source is not among them, by setting.
        network: Whose values of a paper they are; empty for what does not come from a paper.
    """

    source: str
    params: Mapping[str, Any]
    left_out: Mapping[str, str]
    network: str = ""

    def __str__(self) -> str:
        """One line for the user."""
        return f"{self.title}{f', except {self.exceptions}' if self.left_out else ''}"

    @property
    def title(self) -> str:
        """Where its values come from, for the user."""
        return f"{self.network} with the values of {self.source}" if self.network else self.source

    @property
    def exceptions(self) -> str:
        """What of the source is not tried, and why."""
        return ", ".join(f"{name} ({why})" for name, why in self.left_out.items())


def enqueue_first(
    study: optuna.Study,
    config: SweepConfig,
    storage: optuna.storages.BaseStorage,
    say: Callable[[str], None] = lambda _: None,
) -> list[FirstTrial]:
    """Puts what is to be tried first into the queue of a new study.

    Args:
        study: New.
        config: Of the sweep.
        storage: The database, in which the studies of earlier sweeps lie as well.
        say: Told what is tried first and what is not, a line each.

    Returns:
        What was put there, in order.

    Raises:
        ConfigError: There is no study of an earlier sweep that is named.
    """
    study.set_user_attr(_FIXED, _fixed(config))
    chosen: list[FirstTrial] = []
    for found in first_trials(config, storage):
        why = _why_not(found, chosen, config.trials)
        if why is None:
            chosen.append(found)
            study.enqueue_trial(dict(found.params), user_attrs={SOURCE: found.source}, skip_if_exists=True)
            say(f"Tried first: {found}")
        elif why:
            say(f"Not tried first: {found.title}: {why}")
    return chosen


def _why_not(found: FirstTrial, chosen: Sequence[FirstTrial], trials: int) -> str | None:
    """Why a configuration is not tried; None where it is, and empty where it has nothing to do with the search."""
    excepted = f", except {found.exceptions}" if found.left_out else ""
    if not found.params:
        return f"nothing of it is left to try{excepted.replace(', except', ':', 1)}" if found.left_out else ""
    same = next((other.title for other in chosen if other.params == found.params), None)
    if same is not None:
        return f"here it is the same as {same}{excepted.replace(', except', '; it differs in', 1)}"
    return None if len(chosen) < trials else f"the sweep has no trial left for it (trials {trials})"


def first_trials(config: SweepConfig, storage: optuna.storages.BaseStorage) -> Iterator[FirstTrial]:
    """What is to be tried first, the papers' values or those given by hand before those of earlier sweeps.

    Args:
        config: Of the sweep.
        storage: The database.

    Raises:
        ConfigError: There is no study of an earlier sweep that is named.
    """
    validity = Validity(config)
    given = _papers(config) if config.try_first == PAPERS else _by_hand(config)
    for source, settings in given:
        network = str(settings["model"]) if config.try_first == PAPERS else ""
        yield replace(_cut_down(config, validity, source, settings), network=network)
    for source, settings in _earlier(config, storage):
        yield _cut_down(config, validity, source, settings)


def _papers(config: SweepConfig) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The papers' own values for the first network of each kind; the best known of each kind come first."""
    fixed = [config.model.name] if config.model else []
    networks = [str(name) for name in config.space["model"].corners()] if "model" in config.space else fixed
    of_kind: dict[str | None, str] = {}
    for network in networks:
        of_kind.setdefault(kind_of(network), network)
    firsts = list(of_kind.values())
    ranks = itertools.zip_longest(*(paper_settings(network) for network in firsts))
    for rank in ranks:
        for network, paper in zip(firsts, rank, strict=True):
            if paper is not None:
                yield paper.source, {"model": network, **paper.settings}


def _by_hand(config: SweepConfig) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, settings in enumerate(config.try_first):
        yield f"try_first.{number}", dict(settings) if isinstance(settings, Mapping) else {}


def _earlier(config: SweepConfig, storage: optuna.storages.BaseStorage) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The best configurations of the sweeps that are named."""
    refuse_unknown(config, storage)
    for name in config.warm_start:
        study = optuna.load_study(study_name=name, storage=storage)
        for trial in _best(study):
            searched = {setting_of(key): value for key, value in trial.params.items()}
            settings = {**study.user_attrs.get(_FIXED, {}), **searched, **trial.params}
            yield f"trial {trial.number} of {name}", settings


def refuse_unknown(config: SweepConfig, storage: optuna.storages.BaseStorage) -> None:
    """Tells earlier sweeps that are not there before anything starts.

    Args:
        config: Of the sweep.
        storage: The database.

    Raises:
        ConfigError: A sweep that `warm_start` names has no study.
    """
    known = optuna.get_all_study_names(storage)
    unknown = [name for name in config.warm_start if name not in known]
    if unknown:
        told = (f"no earlier sweep '{name}' in this database. {did_you_mean(name, known)}".rstrip() for name in unknown)
        raise ConfigError(Problem("warm_start", message) for message in told)


def _best(study: optuna.Study) -> list[FrozenTrial]:
    """The few best trials that broke no constraint: by value, or the Pareto front."""
    if len(study.directions) > 1:
        return study.best_trials[:_BEST_OF_EACH]
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    feasible = [trial for trial in complete if all(value <= 0 for value in trial.constraints.values())]
    feasible.sort(key=lambda trial: trial.value or 0.0, reverse=study.direction is optuna.study.StudyDirection.MAXIMIZE)
    return feasible[:_BEST_OF_EACH]


def _cut_down(config: SweepConfig, validity: Validity, source: str, settings: Mapping[str, Any]) -> FirstTrial:
    """The part of a configuration that this sweep could draw and would not reject for one of its values."""
    space = config.space
    left_out = _foreign_rates(config, settings)
    while True:
        found = space.project({name: value for name, value in settings.items() if setting_of(name) not in left_out})
        chosen = {setting_of(name) for name in found.values}
        rejection = validity.rejection(resolve_trial(config, 0, found.values))
        if rejection is None or rejection.rule not in chosen - left_out.keys():
            break
        left_out[rejection.rule] = f"would be rejected: {rejection.text}"
    outside = {setting_of(name): _why_outside(config, name, settings[name]) for name in found.left_out}
    why = {name: text for name, text in {**outside, **left_out}.items() if text and name not in chosen}
    constant = {setting_of(name) for name in found.values if isinstance(space[name], ConstantDomain)}
    why |= {name: text for name, text in outside.items() if text and name in constant}
    params = {name: value for name, value in found.values.items() if not isinstance(space[name], ConstantDomain)}
    return FirstTrial(source, params if params.keys() - {"model"} else {}, why)


def _why_outside(config: SweepConfig, name: str, value: Any) -> str:
    """Why this sweep does not try a value from elsewhere; empty for a setting that nobody decided on, or decided so."""
    names = [name] if name in config.space else config.space.setting(setting_of(name))
    if not names:
        where, fixed = fixed_settings(config.training, config.model).get(setting_of(name), ("", value))
        return "" if shown(fixed) == shown(value) else f"theirs {shown(value)}; {where} fixes {shown(fixed)}"
    searched = ", or ".join(dict.fromkeys(_shown_domain(config.space[other]) for other in names))
    if any(config.space[other].contains(value) for other in names):
        return f"theirs {shown(value)}; the search has it beside other choices only"
    if all(isinstance(config.space[other], ConstantDomain) for other in names):
        return f"theirs {shown(value)}; search fixes {searched}"
    return f"theirs {shown(value)}; the search has {searched}"


def _shown_domain(domain: Domain) -> str:
    ends = [shown(value) for value in domain.corners()]
    return " to ".join(ends) if isinstance(domain, FloatDomain | IntDomain) else ", ".join(ends)


def _foreign_rates(config: SweepConfig, settings: Mapping[str, Any]) -> dict[str, str]:
    """Learning rate and weight decay are left out where they are meant for another optimiser."""
    names = config.space.setting("optimizer")
    values = config.space.project(settings).values
    used = next((values[name] for name in names if name in values), None) if names else config.training.optimizer
    meant = settings.get("optimizer", used)
    if meant == used or {meant, used} <= _SGD:
        return {}
    rates = {setting_of(name): value for name, value in settings.items() if setting_of(name) in _MEANT_FOR_OPTIMIZER}
    return {
        name: f"theirs {shown(value)}; it is meant for {meant}, not for {used}"
        for name, value in rates.items()
        if config.space.setting(name)
    }


def _fixed(config: SweepConfig) -> dict[str, Any]:
    """What this sweep does not search, for later sweeps that start from its best trials."""
    model = {"model": config.model.name, **config.model.options} if config.model else {}
    constants = {name: domain.value for name, domain in config.space.items() if isinstance(domain, ConstantDomain)}
    return {**config.training.model_dump(mode="json"), **model, **constants}
