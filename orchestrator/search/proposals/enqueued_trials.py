"""Configurations that a sweep tries first: the papers' own values, those given by hand, the best of earlier sweeps.

Each of them is reduced to what this sweep searches; the sampler draws the values that are left open.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from orchestrator.config.fixed_settings import CHECKPOINT, fixed_settings, shown
from orchestrator.config.plans import SearchPlan
from orchestrator.config.sections.first_trials import PAPERS
from orchestrator.config.trial import resolve_trial
from orchestrator.errors import ConfigError, Problem, did_you_mean
from orchestrator.search.proposals.trial_filter import TrialFilter
from orchestrator.search.samplers.learnable import REPEATS
from search_spaces import ConstantDomain, Domain, FloatDomain, IntDomain, kind_of, paper_settings, setting_of

SOURCE = "source"
"""User attribute of an enqueued trial: the source of its values."""
REQUEST = "request"
"""User attribute of a trial that the user enqueued while the sweep runs: the identifier of the request."""
_FIXED = "fixed_settings"  # user attribute of a study: settings that were not searched
_BEST_OF_EACH = 3
_MEANT_FOR_OPTIMIZER = ("lr", "weight_decay")
_SGD = {"sgd", "momentum", "nesterov"}  # the same learning rates suit them


@dataclass(frozen=True)
class EnqueuedTrial:
    """Configuration that is tried before the sampler proposes any.

    Args:
        source: Paper, earlier trial or list entry that the values come from.
        params: Values by searched name; the sampler draws the others.
        left_out: Reason why a value of the source is not among them, by setting.
        network: Network that the paper's values belong to; empty for other sources.
    """

    source: str
    params: Mapping[str, Any]
    left_out: Mapping[str, str]
    network: str = ""

    def __str__(self) -> str:
        """Return one line for the user."""
        return f"{self.title}{f', except {self.exceptions}' if self.left_out else ''}"

    @property
    def title(self) -> str:
        """Source of the values in words."""
        return f"{self.network} with the values of {self.source}" if self.network else self.source

    @property
    def exceptions(self) -> str:
        """Settings of the source that are not tried, each with its reason."""
        return ", ".join(f"{name} ({why})" for name, why in self.left_out.items())


def enqueue_trials(
    study: optuna.Study,
    plan: SearchPlan,
    storage: optuna.storages.BaseStorage,
    say: Callable[[str], None] = lambda _: None,
) -> list[EnqueuedTrial]:
    """Enqueue the configurations that a new study tries first.

    Args:
        study: New study.
        plan: Search plan of the sweep.
        storage: Database that holds the studies of earlier sweeps as well.
        say: Called with one line for each configuration, enqueued or not.

    Returns:
        The enqueued configurations in order.

    Raises:
        ConfigError: A sweep that `warm_start` names has no study.
    """
    study.set_user_attr(_FIXED, _unsearched_settings(plan))
    chosen: list[EnqueuedTrial] = []
    for found in _candidates(plan, storage):
        why = _why_not(found, chosen, plan.trials)
        if why is None:
            chosen.append(found)
            study.enqueue_trial(dict(found.params), user_attrs={SOURCE: found.source}, skip_if_exists=True)
            say(f"Tried first: {found}")
        elif why:
            say(f"Not tried first: {found.title}: {why}")
    return chosen


def paper_configurations(plan: SearchPlan) -> list[Mapping[str, Any]]:
    """Return the papers' values for the networks of a sweep, reduced to what it searches; each once.

    Args:
        plan: Search plan of the sweep.
    """
    trial_filter, found = TrialFilter(plan), []
    for source, settings in _from_papers(plan):
        params = _reduced(plan, trial_filter, source, settings).params
        if params and params not in found:
            found.append(params)
    return found


def params_by_hand(plan: SearchPlan, source: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the searched values of a configuration given by hand while the sweep runs.

    Args:
        plan: Search plan of the sweep.
        source: Name of the source, for messages.
        settings: Values by searched name, or by setting.

    Raises:
        ConfigError: A name is not searched, a value is outside its domain, or the configuration would be rejected.
    """
    known = list(dict.fromkeys([*plan.space, *map(setting_of, plan.space)]))
    fixed = fixed_settings(plan.training, plan.model)
    projection = plan.space.project(settings)
    problems = []
    for name in projection.left_out:
        if name not in known and name not in fixed:
            problems.append(Problem(name, f"is not searched here. {did_you_mean(name, known)}".rstrip()))
        elif why := _why_outside(plan, name, settings[name]).replace("theirs ", "got ", 1):
            problems.append(Problem(name, why))
    if not problems:
        found = _reduced(plan, TrialFilter(plan), source, settings)
        problems = [Problem(name, why.replace("theirs ", "got ", 1)) for name, why in found.left_out.items()]
        if not problems and not projection.values:
            problems = [Problem("", f"names nothing that is searched. {did_you_mean('', known)}".rstrip())]
    if problems:
        raise ConfigError(problems, source)
    return {
        name: value for name, value in projection.values.items() if not isinstance(plan.space[name], ConstantDomain)
    }


def enqueue_request(study: optuna.Study, params: Mapping[str, Any], request: str) -> None:
    """Enqueue a configuration that the user has requested while the sweep runs.

    Args:
        study: Study of the sweep.
        params: Values by searched name.
        request: Identifier of the request.
    """
    study.enqueue_trial(dict(params), user_attrs={SOURCE: "enqueued by the user", REQUEST: request})


def enqueue_lost_requests(study: optuna.Study, enqueued: Mapping[str, Mapping[str, Any]]) -> None:
    """Enqueue requested configurations that a study has lost, such as one restored from a backup.

    Args:
        study: Study of a resumed sweep, with all trials of the journal.
        enqueued: Requested configurations by the identifier of the request.
    """
    trials = study.get_trials(deepcopy=False)
    known = {trial.user_attrs.get(REQUEST) for trial in trials}
    for request, params in enqueued.items():
        tried = any(params.items() <= trial.params.items() for trial in trials)
        if request not in known and not tried:
            enqueue_request(study, params, request)


def refuse_unknown_sweeps(warm_start: Sequence[str], storage: optuna.storages.BaseStorage) -> None:
    """Check that every sweep that `warm_start` names has a study.

    Args:
        warm_start: Names of earlier sweeps.
        storage: Database of the studies.

    Raises:
        ConfigError: A sweep has no study.
    """
    known = optuna.get_all_study_names(storage)
    messages = [
        f"no earlier sweep '{name}' in this database. {did_you_mean(name, known)}".rstrip()
        for name in warm_start
        if name not in known
    ]
    if messages:
        raise ConfigError(Problem("warm_start", message) for message in messages)


def _why_not(found: EnqueuedTrial, chosen: Sequence[EnqueuedTrial], trials: int) -> str | None:
    """Return why a configuration is not tried; None where it is, empty where it does not concern the search."""
    excepted = f", except {found.exceptions}" if found.left_out else ""
    if not found.params:
        return f"nothing of it is left to try{excepted.replace(', except', ':', 1)}" if found.left_out else ""
    same = next((other.title for other in chosen if other.params == found.params), None)
    if same is not None:
        return f"here it is the same as {same}{excepted.replace(', except', '; it differs in', 1)}"
    return None if len(chosen) < trials else f"the sweep has no trial left for it (trials {trials})"


def _candidates(plan: SearchPlan, storage: optuna.storages.BaseStorage) -> Iterator[EnqueuedTrial]:
    """Yield the papers' values, or those given by hand, then the best of earlier sweeps.

    Raises:
        ConfigError: A sweep that `warm_start` names has no study.
    """
    trial_filter = TrialFilter(plan)
    given = _from_papers(plan) if plan.try_first == PAPERS else _by_hand(plan.try_first)
    for source, settings in given:
        network = str(settings["model"]) if plan.try_first == PAPERS else ""
        yield replace(_reduced(plan, trial_filter, source, settings), network=network)
    refuse_unknown_sweeps(plan.warm_start, storage)
    for source, settings in _from_earlier_sweeps(plan.warm_start, storage):
        yield _reduced(plan, trial_filter, source, settings)


def _from_papers(plan: SearchPlan) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the papers' values for the first network of each kind; the best known of each kind come first."""
    fixed = [plan.model.name] if plan.model else []
    networks = [str(name) for name in plan.space["model"].corners()] if "model" in plan.space else fixed
    of_kind: dict[str | None, str] = {}
    for network in networks:
        of_kind.setdefault(kind_of(network), network)
    firsts = list(of_kind.values())
    ranks = itertools.zip_longest(*(paper_settings(network) for network in firsts))
    for rank in ranks:
        for network, paper in zip(firsts, rank, strict=True):
            if paper is not None:
                yield paper.source, {"model": network, **paper.settings}


def _by_hand(try_first: Sequence[Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, settings in enumerate(try_first):
        yield f"try_first.{number}", dict(settings) if isinstance(settings, Mapping) else {}


def _from_earlier_sweeps(
    names: Sequence[str], storage: optuna.storages.BaseStorage
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the best configurations of the named sweeps."""
    for name in names:
        study = optuna.load_study(study_name=name, storage=storage)
        for trial in _best(study):
            searched = {setting_of(key): value for key, value in trial.params.items()}
            settings = {**study.user_attrs.get(_FIXED, {}), **searched, **trial.params}
            yield f"trial {trial.number} of {name}", settings


def _best(study: optuna.Study) -> list[FrozenTrial]:
    """Return the few best trials that meet every constraint: by value of the first seed, or the Pareto front."""
    if len(study.directions) > 1:
        return study.best_trials[:_BEST_OF_EACH]
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    complete = [trial for trial in complete if REPEATS not in trial.user_attrs]
    feasible = [trial for trial in complete if all(value <= 0 for value in trial.constraints.values())]
    feasible.sort(key=lambda trial: trial.value or 0.0, reverse=study.direction is optuna.study.StudyDirection.MAXIMIZE)
    return feasible[:_BEST_OF_EACH]


def _reduced(plan: SearchPlan, trial_filter: TrialFilter, source: str, settings: Mapping[str, Any]) -> EnqueuedTrial:
    """Return the part of a configuration that this sweep could draw and would not reject for one of its values."""
    space = plan.space
    left_out = _foreign_rates(plan, settings)
    while True:
        found = space.project({name: value for name, value in settings.items() if setting_of(name) not in left_out})
        chosen = {setting_of(name) for name in found.values}
        rejection = trial_filter.rejection(resolve_trial(plan, 0, found.values, plan.initial_weights))
        if rejection is None or rejection.rule not in chosen - left_out.keys():
            break
        left_out[rejection.rule] = f"would be rejected: {rejection.text}"
    outside = {setting_of(name): _why_outside(plan, name, settings[name]) for name in found.left_out}
    why = {name: text for name, text in {**outside, **left_out}.items() if text and name not in chosen}
    constant = {setting_of(name) for name in found.values if isinstance(space[name], ConstantDomain)}
    why |= {name: text for name, text in outside.items() if text and name in constant}
    params = {name: value for name, value in found.values.items() if not isinstance(space[name], ConstantDomain)}
    return EnqueuedTrial(source, params if params.keys() - {"model"} else {}, why)


def _why_outside(plan: SearchPlan, name: str, value: Any) -> str:
    """Return why a value from elsewhere is not tried; empty where the sweep has the same value, or none."""
    names = [name] if name in plan.space else plan.space.setting(setting_of(name))
    if not names:
        where, fixed = fixed_settings(plan.training, plan.model).get(setting_of(name), ("", value))
        return "" if shown(fixed) == shown(value) else f"theirs {shown(value)}; {where} fixes {shown(fixed)}"
    searched = ", or ".join(dict.fromkeys(_shown_domain(plan.space[other]) for other in names))
    if any(plan.space[other].contains(value) for other in names):
        return f"theirs {shown(value)}; the search has it beside other choices only"
    if all(isinstance(plan.space[other], ConstantDomain) for other in names):
        return f"theirs {shown(value)}; search fixes {searched}"
    return f"theirs {shown(value)}; the search has {searched}"


def _shown_domain(domain: Domain) -> str:
    ends = [shown(value) for value in domain.corners()]
    return " to ".join(ends) if isinstance(domain, FloatDomain | IntDomain) else ", ".join(ends)


def _foreign_rates(plan: SearchPlan, settings: Mapping[str, Any]) -> dict[str, str]:
    """Return learning rate and weight decay, with the reason, where they are meant for another optimiser."""
    names = plan.space.setting("optimizer")
    values = plan.space.project(settings).values
    used = next((values[name] for name in names if name in values), None) if names else plan.training.optimizer
    meant = settings.get("optimizer", used)
    if meant == used or {meant, used} <= _SGD:
        return {}
    rates = {setting_of(name): value for name, value in settings.items() if setting_of(name) in _MEANT_FOR_OPTIMIZER}
    return {
        name: f"theirs {shown(value)}; it is meant for {meant}, not for {used}"
        for name, value in rates.items()
        if plan.space.setting(name)
    }


def _unsearched_settings(plan: SearchPlan) -> dict[str, Any]:
    """Return the settings that this sweep does not search, for later sweeps that start from its best trials."""
    model = {"model": plan.model.name, **plan.model.options} if plan.model else {}
    if plan.model and plan.model.checkpoint is not None:
        model[CHECKPOINT] = plan.model.checkpoint
    constants = {name: domain.value for name, domain in plan.space.items() if isinstance(domain, ConstantDomain)}
    return {**plan.training.model_dump(mode="json"), **model, **constants}
