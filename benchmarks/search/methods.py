"""Strategies of search that the benchmark compares, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from lane_simulation import Strategy
from tasks import Task


@dataclass(frozen=True)
class Search:
    """Search that a strategy is created for.

    Args:
        task: Task.
        seed: Seed.
        budget: Epochs of all trials together.
    """

    task: Task
    seed: int
    budget: int


Create = Callable[[Search], Strategy]


@dataclass(frozen=True)
class Method:
    """Strategy by name.

    Args:
        create: Creates it.
        is_ours: True for a strategy that a sweep offers.
        same_on_final_scores: Method that it is the same as where there are no curves; empty for none.
        needs_known: True where it uses the papers' values, which few tasks have.
        packages: Modules that must be importable.
    """

    create: Create
    is_ours: bool = False
    same_on_final_scores: str = ""
    needs_known: bool = False
    packages: tuple[str, ...] = ()


AUTO = "auto"
"""Name of the default strategy. It stands for another method on each task, and is not simulated itself."""


def method_of_auto(task: Task) -> str:
    """Return the method that `strategy: auto` is for a task, in a sweep of 200 trials."""
    choice, ends_early = import_module("orchestrator.search.samplers.choice"), task.epochs > 1
    space = import_module("strategies").search_space(task)
    name = choice.choose_sampler(space, trials=200, ends_early=ends_early).name
    config = import_module("orchestrator.config.sections.study").SamplerConfig(name=name)
    sampler = {"name": name, "startup": choice.choose_startup(config, ends_early=ends_early)}
    rule, _ = import_module("orchestrator.config.strategy").choose_scheduler(
        epochs=task.epochs, grace_epochs=1, objectives=1
    )
    shown = next(shown for shown, settings in _SAMPLERS.items() if settings == sampler)
    return shown if rule == "none" else f"{rule}, {shown}"


WRONG = ({"optimizer": "adamw", "log10_lr": -0.3},)
"""Known values of a misleading source: adamw diverges or learns nothing at this learning rate."""


def _known(use: str, task: Task) -> dict[str, Any]:
    """Return the arguments of a strategy for known values: as a prior, tried first, or a misleading prior."""
    return {"prior": {"known": task.known}, "first": {"first": task.known}, "wrong": {"known": WRONG}, "": {}}[use]


def _sampled(shown: str, known: str = "", random_share: float = 0.0) -> Create:
    def create(search: Search) -> Strategy:
        return import_module("strategies").SampledStrategy(
            search.task,
            search.seed,
            {**_SAMPLERS[shown], "random_share": random_share},
            **_known(known, search.task),
        )

    return create


def _stopping(shown: str, *, hyperband: bool = False) -> Create:
    def create(search: Search) -> Strategy:
        return import_module("strategies").StoppingStrategy(
            search.task, search.seed, _SAMPLERS[shown], hyperband=hyperband
        )

    return create


def _allocated(shown: str, rule: str, known: str = "", random_share: float = 0.0) -> Create:
    def create(search: Search) -> Strategy:
        rules = import_module("orchestrator.search.allocation.rules").ALLOCATORS
        options = {"create": rules[rule], "trials": search.budget, "epochs": search.budget}
        options |= _known(known, search.task)
        return import_module("strategies").AllocatedStrategy(
            search.task, search.seed, {**_SAMPLERS[shown], "random_share": random_share}, **options
        )

    return create


def _optuna(search: Search) -> Strategy:
    return import_module("competitors_optuna").OptunaHyperband(search.task, search.seed)


def _syne_tune(name: str, function: str = "syne_tune") -> Create:
    def create(search: Search) -> Strategy:
        return getattr(import_module("competitors_syne_tune"), function)(name, search.task, search.seed)

    return create


def _smac(search: Search) -> Strategy:
    return import_module("competitors_smac").Smac(search.task, search.seed, search.budget)


_SAMPLERS: Mapping[str, Mapping[str, Any]] = {
    "random": {"name": "random", "startup": "random"},
    "TPE": {"name": "tpe", "startup": "random"},
    "GP": {"name": "gp", "startup": "random"},
    "late TPE": {"name": "tpe", "startup": "late", "rules": 3},
    "late GP": {"name": "gp", "startup": "late", "rules": 3},
    "GP and TPE": {"name": "gp_tpe", "startup": "even", "rules": 3},
    "middle TPE": {"name": "tpe", "startup": "late"},
    "middle GP": {"name": "gp", "startup": "late"},
    "middle GP and TPE": {"name": "gp_tpe", "startup": "even"},
}
"""Settings of our samplers, by the name that tables show; "middle" begins in the middle of the space."""
_ON_FINAL_SCORES = {"late TPE": "TPE", "late GP": "GP", "middle TPE": "TPE", "middle GP": "GP"}
_THIRD, _IN_THIRDS = " and a third random", ("TPE", "GP and TPE")
_SYNE = ("syne_tune.optimizer.schedulers.asha",)
_OLDER_SYNE = ("syne_tune.optimizer.schedulers.searchers.bayesopt",)

METHODS: Mapping[str, Method] = {
    "random": Method(_sampled("random"), is_ours=True),
    "TPE": Method(_sampled("TPE"), is_ours=True),
    "GP": Method(_sampled("GP"), is_ours=True),
    "GP and TPE": Method(_sampled("GP and TPE"), is_ours=True),
    "middle GP and TPE": Method(_sampled("middle GP and TPE"), is_ours=True),
    "Ray ASHA, random": Method(_stopping("random"), same_on_final_scores="random", is_ours=True),
    "Ray ASHA, TPE": Method(_stopping("TPE"), same_on_final_scores="TPE", is_ours=True),
    "Ray BOHB-like": Method(_stopping("TPE", hyperband=True), same_on_final_scores="TPE", is_ours=True),
    **{
        f"{rule}, {shown}": Method(
            _allocated(shown, rule), is_ours=True, same_on_final_scores=_ON_FINAL_SCORES.get(shown, shown)
        )
        for rule in ("asha", "pasha", "freeze_thaw")
        for shown in _SAMPLERS
    },
    "Optuna TPE + Hyperband": Method(_optuna, packages=("optuna",)),
    "Syne Tune ASHA": Method(_syne_tune("random_search"), packages=_SYNE),
    "Syne Tune BOHB": Method(_syne_tune("kde"), packages=_SYNE),
    "Syne Tune CQR": Method(_syne_tune("cqr"), packages=_SYNE),
    "Syne Tune MOBSTER": Method(_syne_tune("MOBSTER", "older_syne_tune"), packages=_OLDER_SYNE),
    "Syne Tune Hyper-Tune": Method(
        _syne_tune("HyperTune", "older_syne_tune"),
        same_on_final_scores="Syne Tune MOBSTER",
        packages=_OLDER_SYNE,
    ),
    "SMAC3": Method(_smac, packages=("smac",)),
    **{
        f"{rule}, {shown}{_THIRD}": Method(
            _allocated(shown, rule, random_share=1 / 3), is_ours=True, same_on_final_scores=f"{shown}{_THIRD}"
        )
        for rule in ("asha", "freeze_thaw")
        for shown in _IN_THIRDS
    },
    **{f"{shown}{_THIRD}": Method(_sampled(shown, random_share=1 / 3), is_ours=True) for shown in _IN_THIRDS},
    **{
        f"{shown}, {use}": Method(create(use), is_ours=True, needs_known=True)
        for use in ("first", "prior", "wrong")
        for shown, create in (
            ("TPE", lambda use: _sampled("TPE", use)),
            ("asha, TPE", lambda use: _allocated("TPE", "asha", use)),
        )
    },
}
