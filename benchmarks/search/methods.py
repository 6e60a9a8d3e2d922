"""Strategies of search that the benchmark compares, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from lane_simulation import Strategy
from tasks import Task

Create = Callable[[Task, int, int], Strategy]
"""Function that creates a strategy from a task, a seed, and the epochs of all trials together."""


@dataclass(frozen=True)
class Method:
    """Strategy by name.

    Args:
        create: Creates it.
        is_ours: True for a strategy that a sweep offers.
        same_on_final_scores: Method that it is the same as where there are no curves; empty for none.
        packages: Modules that must be importable.
        seeds: Largest number of seeds; fewer for methods that take long to decide.
    """

    create: Create
    is_ours: bool = False
    same_on_final_scores: str = ""
    packages: tuple[str, ...] = ()
    seeds: int = 30


def _sampled(name: str, **options: Any) -> Create:
    def create(task: Task, seed: int, budget: int) -> Strategy:
        return import_module("strategies").SampledStrategy(task, seed, {"name": name, **options})

    return create


def _stopping(name: str, *, hyperband: bool = False, **options: Any) -> Create:
    def create(task: Task, seed: int, budget: int) -> Strategy:
        sampler = {"name": name, **options}
        return import_module("strategies").StoppingStrategy(task, seed, sampler, hyperband=hyperband)

    return create


def _allocated(name: str, rule: str, **options: Any) -> Create:
    def create(task: Task, seed: int, budget: int) -> Strategy:
        rules = import_module("orchestrator.search.allocation.rules").ALLOCATORS
        sampler = {"name": name, **options}
        strategies = import_module("strategies")
        return strategies.AllocatedStrategy(task, seed, sampler, create=rules[rule], trials=budget, epochs=budget)

    return create


def _optuna(task: Task, seed: int, budget: int) -> Strategy:
    return import_module("competitors_optuna").OptunaHyperband(task, seed)


def _syne_tune(name: str, function: str = "syne_tune") -> Create:
    def create(task: Task, seed: int, budget: int) -> Strategy:
        return getattr(import_module("competitors_syne_tune"), function)(name, task, seed)

    return create


def _smac(task: Task, seed: int, budget: int) -> Strategy:
    return import_module("competitors_smac").Smac(task, seed, budget)


_SHOWN = {"random": "random", "tpe": "TPE", "gp": "GP"}
_SYNE = ("syne_tune.optimizer.schedulers.asha",)
_OLDER_SYNE = ("syne_tune.optimizer.schedulers.searchers.bayesopt",)

METHODS: Mapping[str, Method] = {
    "random": Method(_sampled("random"), is_ours=True),
    "TPE": Method(_sampled("tpe"), is_ours=True),
    "GP": Method(_sampled("gp"), is_ours=True, seeds=10),
    "Ray ASHA, random": Method(_stopping("random"), same_on_final_scores="random", is_ours=True),
    "Ray ASHA, TPE": Method(_stopping("tpe"), same_on_final_scores="TPE", is_ours=True),
    "Ray BOHB-like": Method(_stopping("tpe", hyperband=True), same_on_final_scores="TPE", is_ours=True),
    **{
        f"{rule}, {_SHOWN[name]}": Method(
            _allocated(name, rule), is_ours=True, same_on_final_scores=_SHOWN[name], seeds=10 if name == "gp" else 30
        )
        for rule in ("asha", "pasha", "freeze_thaw")
        for name in ("random", "tpe", "gp")
    },
    "Optuna TPE + Hyperband": Method(_optuna, packages=("optuna",)),
    "Syne Tune ASHA": Method(_syne_tune("random_search"), packages=_SYNE),
    "Syne Tune BOHB": Method(_syne_tune("kde"), packages=_SYNE, seeds=10),
    "Syne Tune CQR": Method(_syne_tune("cqr"), packages=_SYNE, seeds=10),
    "Syne Tune MOBSTER": Method(
        _syne_tune("MOBSTER", "older_syne_tune"), packages=_OLDER_SYNE, seeds=5
    ),
    "Syne Tune Hyper-Tune": Method(
        _syne_tune("HyperTune", "older_syne_tune"),
        same_on_final_scores="Syne Tune MOBSTER",
        packages=_OLDER_SYNE,
        seeds=5,
    ),
    "SMAC3": Method(_smac, packages=("smac",), seeds=10),
}
