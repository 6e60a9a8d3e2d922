"""What a sweep tries before its sampler proposes anything: the papers' own values, and the best of earlier sweeps.

Each such configuration is cut down to what this sweep searches; the sampler draws what it leaves open.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from orchestrator.config.schema import SweepConfig, resolve_trial
from orchestrator.errors import ConfigError, Problem, did_you_mean
from orchestrator.validity import Validity
from search_spaces import ConstantDomain, kind_of, paper_settings, setting_of

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
    """

    source: str
    params: Mapping[str, Any]
    left_out: Mapping[str, str]

    def __str__(self) -> str:
        """One line for the user."""
        without = ", ".join(f"{name} ({why})" for name, why in self.left_out.items())
        return f"{self.source}{f', without {without}' if without else ''}"


def enqueue_first(study: optuna.Study, config: SweepConfig, storage: optuna.storages.BaseStorage) -> list[FirstTrial]:
    """Puts what is to be tried first into the queue of a new study.

    Args:
        study: New.
        config: Of the sweep.
        storage: The database, in which the studies of earlier sweeps lie as well.

    Returns:
        What was put there, in order.

    Raises:
        ConfigError: There is no study of an earlier sweep that is named.
    """
    study.set_user_attr(_FIXED, _fixed(config))
    chosen: list[FirstTrial] = []
    for found in first_trials(config, storage):
        if found.params and found.params not in [other.params for other in chosen]:
            chosen.append(found)
    for found in chosen[: config.trials]:
        study.enqueue_trial(dict(found.params), user_attrs={SOURCE: found.source}, skip_if_exists=True)
    return chosen[: config.trials]


def first_trials(config: SweepConfig, storage: optuna.storages.BaseStorage) -> Iterator[FirstTrial]:
    """What is to be tried first, the papers' values or those given by hand before those of earlier sweeps.

    Args:
        config: Of the sweep.
        storage: The database.

    Raises:
        ConfigError: There is no study of an earlier sweep that is named.
    """
    validity = Validity(config)
    given = _papers(config) if config.try_first == "papers" else _by_hand(config)
    for source, settings in itertools.chain(given, _earlier(config, storage)):
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
        left_out[rejection.rule] = "would be rejected"
    outside = {setting_of(name): why for name, why in found.left_out.items() if space.setting(setting_of(name))}
    left_out = {name: why for name, why in {**outside, **left_out}.items() if name not in chosen}
    params = {name: value for name, value in found.values.items() if not isinstance(space[name], ConstantDomain)}
    return FirstTrial(source, params if params.keys() - {"model"} else {}, left_out)


def _foreign_rates(config: SweepConfig, settings: Mapping[str, Any]) -> dict[str, str]:
    """Learning rate and weight decay are left out where they are meant for another optimiser."""
    names = config.space.setting("optimizer")
    values = config.space.project(settings).values
    used = next((values[name] for name in names if name in values), None) if names else config.training.optimizer
    meant = settings.get("optimizer", used)
    if meant == used or {meant, used} <= _SGD:
        return {}
    return {name: f"is meant for {meant}" for name in _MEANT_FOR_OPTIMIZER if config.space.setting(name)}


def _fixed(config: SweepConfig) -> dict[str, Any]:
    """What this sweep does not search, for later sweeps that start from its best trials."""
    model = {"model": config.model.name, **config.model.options} if config.model else {}
    constants = {name: domain.value for name, domain in config.space.items() if isinstance(domain, ConstantDomain)}
    return {**config.training.model_dump(mode="json"), **model, **constants}
