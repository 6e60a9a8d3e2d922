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
    sampler = import_module("orchestrator.search.samplers.choice").choose_sampler(
        import_module("strategies").search_space(task), trials=200, ends_early=task.epochs > 1
    )
    rule, _ = import_module("orchestrator.config.strategy").choose_scheduler(
        epochs=task.epochs, grace_epochs=1, objectives=1
    )
    shown = _SHOWN[sampler.name]
    return shown if rule == "none" else f"{rule}, {shown}"


WRONG = ({"optimizer": "adamw", "log10_lr": -0.3},)
"""Known values of a misleading source: adamw diverges or learns nothing at this learning rate."""


def _known(use: str, task: Task) -> dict[str, Any]:
    """Return the arguments of a strategy for known values: as a prior, tried first, or a misleading prior."""
    return {"prior": {"known": task.known}, "first": {"first": task.known}, "wrong": {"known": WRONG}, "": {}}[use]


def _sampled(name: str, known: str = "", random_share: float = 0.0) -> Create:
    def create(search: Search) -> Strategy:
        return import_module("strategies").SampledStrategy(
            search.task,
            search.seed,
            {"name": name, "random_share": random_share},
            **_known(known, search.task),
        )

    return create


def _stopping(name: str, *, hyperband: bool = False) -> Create:
    def create(search: Search) -> Strategy:
        return import_module("strategies").StoppingStrategy(
            search.task, search.seed, {"name": name}, hyperband=hyperband
        )

    return create


def _allocated(name: str, rule: str, known: str = "", random_share: float = 0.0) -> Create:
    def create(search: Search) -> Strategy:
        rules = import_module("orchestrator.search.allocation.rules").ALLOCATORS
        options = {"create": rules[rule], "trials": search.budget, "epochs": search.budget}
        options |= _known(known, search.task)
        return import_module("strategies").AllocatedStrategy(
            search.task, search.seed, {"name": name, "random_share": random_share}, **options
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


_SHOWN = {"random": "random", "tpe": "TPE", "gp": "GP", "late_gp": "late GP", "gp_tpe": "GP and TPE"}
_THIRD, _IN_THIRDS = " and a third random", ("tpe", "gp_tpe")
_SYNE = ("syne_tune.optimizer.schedulers.asha",)
_OLDER_SYNE = ("syne_tune.optimizer.schedulers.searchers.bayesopt",)

METHODS: Mapping[str, Method] = {
    "random": Method(_sampled("random"), is_ours=True),
    "TPE": Method(_sampled("tpe"), is_ours=True),
    "GP": Method(_sampled("gp"), is_ours=True),
    "GP and TPE": Method(_sampled("gp_tpe"), is_ours=True),
    "Ray ASHA, random": Method(_stopping("random"), same_on_final_scores="random", is_ours=True),
    "Ray ASHA, TPE": Method(_stopping("tpe"), same_on_final_scores="TPE", is_ours=True),
    "Ray BOHB-like": Method(_stopping("tpe", hyperband=True), same_on_final_scores="TPE", is_ours=True),
    **{
        f"{rule}, {_SHOWN[name]}": Method(_allocated(name, rule), is_ours=True, same_on_final_scores=_SHOWN[name])
        for rule in ("asha", "pasha", "freeze_thaw")
        for name in ("random", "tpe", "gp", "late_gp", "gp_tpe")
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
        f"{rule}, {_SHOWN[name]}{_THIRD}": Method(
            _allocated(name, rule, random_share=1 / 3), is_ours=True, same_on_final_scores=f"{_SHOWN[name]}{_THIRD}"
        )
        for rule in ("asha", "freeze_thaw")
        for name in _IN_THIRDS
    },
    **{f"{_SHOWN[name]}{_THIRD}": Method(_sampled(name, random_share=1 / 3), is_ours=True) for name in _IN_THIRDS},
    **{
        f"{shown}, {use}": Method(create(use), is_ours=True, needs_known=True)
        for use in ("first", "prior", "wrong")
        for shown, create in (
            ("TPE", lambda use: _sampled("tpe", use)),
            ("asha, TPE", lambda use: _allocated("tpe", "asha", use)),
        )
    },
}
