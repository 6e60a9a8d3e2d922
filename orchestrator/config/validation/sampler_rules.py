"""Rules that join the sampler with its options, the search space and the objectives."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import PositiveInt, TypeAdapter, ValidationError

from orchestrator.config.sections.study import SamplerConfig
from orchestrator.errors import Problem, did_you_mean
from search_spaces import SearchSpace
from search_spaces.domains import ChoiceDomain, ConstantDomain, Domain
from search_spaces.grid import MOST_POINTS, grid_size, value_count

_NSGA: dict[str, Any] = {
    "population_size": PositiveInt,
    "mutation_prob": float,
    "crossover_prob": float,
    "swapping_prob": float,
}
SAMPLER_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "tpe": {"n_ei_candidates": PositiveInt, "multivariate": bool, "group": bool, "constant_liar": bool},
    "random": {},
    "grid": {},
    "qmc": {"qmc_type": Literal["sobol", "halton"], "scramble": bool},
    "gp": {"deterministic_objective": bool},
    "gp_tpe": {},
    "cmaes": {
        "popsize": PositiveInt,
        "use_separable_cma": bool,
        "with_margin": bool,
        "lr_adapt": bool,
        "consider_pruned_trials": bool,
    },
    "nsga2": _NSGA,
    "nsga3": {**_NSGA, "dividing_parameter": PositiveInt},
    "auto": {},
}
"""Arguments of Optuna's samplers that a sweep may set; seeds and functions are set by the program."""

_WITH_PRIOR = ("tpe", "gp", "gp_tpe", "random", "auto")
WITH_STARTUP = ("tpe", "gp", "gp_tpe", "auto")
"""Samplers whose first trials `sampler.startup` decides."""
_GP = ("gp", "gp_tpe")
_MOST_VALUES_GP = 10_000_000
_PACKAGES = {"cmaes": "cmaes", "gp": "torch", "gp_tpe": "torch"}


def sampler_problems(
    sampler: SamplerConfig, search: Mapping[str, Domain], *, objectives: int = 1, constraints: int = 0
) -> Iterator[Problem]:
    """Yield the problems of a sampler.

    Args:
        sampler: Section `sampler`.
        search: Searched domains by name, all valid.
        objectives: Number of objectives.
        constraints: Number of constraints.
    """
    yield from _option_problems(sampler)
    package = _PACKAGES.get(sampler.name)
    if package is not None and importlib.util.find_spec(package) is None:
        yield Problem("sampler.name", f"got '{sampler.name}', which needs a package: pip install {package}")
    if sampler.prior != "none" and sampler.name not in _WITH_PRIOR:
        remedy = f"Use {', '.join(_WITH_PRIOR[:-1])} or {_WITH_PRIOR[-1]}, or leave it out"
        yield Problem("sampler.prior", f"got '{sampler.prior}', which '{sampler.name}' cannot take. {remedy}")
    if sampler.startup not in ("auto", "random") and sampler.name not in WITH_STARTUP:
        remedy = f"Use {', '.join(WITH_STARTUP[:-1])} or {WITH_STARTUP[-1]}, or leave it out"
        yield Problem("sampler.startup", f"got '{sampler.startup}', which '{sampler.name}' cannot take. {remedy}")
    if sampler.name == "grid":
        yield from _grid_problems(search)
    if sampler.name in (*_GP, "cmaes", "qmc"):
        yield from _conditional_problems(sampler.name, search)
    if sampler.name in _GP and (wide := too_fine_for_gp(search)):
        rule = f"lists the values of a grid, and search.{wide} has {value_count(search[wide]):,}"
        yield Problem("sampler.name", f"got '{sampler.name}', which {rule}. Give it a larger step, or use tpe")
    if sampler.name == "cmaes":
        yield from _cmaes_problems(search, objectives, constraints)


def too_fine_for_gp(search: Mapping[str, Domain]) -> str | None:
    """Return a number with more values than a Gaussian process can list in memory; None where there is none.

    Args:
        search: Searched domains by name.
    """
    for name, domain in search.items():
        is_grid = domain.type == "int" or (domain.type == "float" and domain.step is not None)
        if is_grid and value_count(domain) > _MOST_VALUES_GP:
            return name
    return None


def _option_problems(sampler: SamplerConfig) -> Iterator[Problem]:
    known = SAMPLER_OPTIONS[sampler.name]
    for name, value in sampler.options.items():
        where = f"sampler.options.{name}"
        if name == "n_startup_trials":
            yield Problem(where, "is written sampler.startup_trials")
        elif name not in known:
            remedy = did_you_mean(name, list(known)) or f"'{sampler.name}' has none"
            yield Problem(where, f"unknown option of '{sampler.name}'. {remedy}")
        else:
            try:
                TypeAdapter(known[name]).validate_python(value, strict=True)
            except ValidationError as error:
                rule = error.errors(include_url=False)[0]["msg"].removeprefix("Input ")
                yield Problem(where, f"got {value!r}; {rule[:1].lower()}{rule[1:]}")
    if sampler.name == "tpe" and sampler.options.get("group") is True and sampler.options.get("multivariate") is False:
        yield Problem("sampler.options.group", "got True; groups need multivariate: true. Drop one of the two")
    exclusive = [name for name in ("use_separable_cma", "with_margin", "lr_adapt") if sampler.options.get(name) is True]
    if sampler.name == "cmaes" and len(exclusive) > 1:
        yield Problem("sampler.options", f"got {' and '.join(exclusive)}; they exclude each other. Keep one")


def _grid_problems(search: Mapping[str, Domain]) -> Iterator[Problem]:
    endless = [name for name, domain in search.items() if domain.type == "float" and domain.step is None]
    for name in endless:
        yield Problem(f"search.{name}", "is a continuum, which a grid cannot list. Give it a step, or choices: [...]")
    if not endless and (grid_size(SearchSpace(search)) or 0) > MOST_POINTS:
        yield Problem("sampler.name", f"got 'grid' for more than {MOST_POINTS:,} configurations. Use qmc or random")


def _conditional_problems(name: str, search: Mapping[str, Domain]) -> Iterator[Problem]:
    for key, domain in search.items():
        if domain.when and not isinstance(domain, ConstantDomain):
            yield Problem(
                "sampler.name",
                f"got '{name}', which cannot follow conditions, and search.{key} has one. Use tpe, or fix "
                f"{', '.join(domain.when)} to one value",
            )
            return


def _cmaes_problems(search: Mapping[str, Domain], objectives: int, constraints: int) -> Iterator[Problem]:
    choices = [key for key, domain in search.items() if isinstance(domain, ChoiceDomain) and len(domain.choices) > 1]
    if choices:
        yield Problem(
            "sampler.name",
            f"got 'cmaes', which moves along numbers only, and search.{choices[0]} is a choice. Use tpe, or give it "
            "one value",
        )
    numbers = [key for key, domain in search.items() if domain.type in ("float", "int")]
    if len(numbers) < 2:
        yield Problem("sampler.name", "got 'cmaes', which needs two searched numbers at least. Use gp or tpe")
    if objectives > 1 or constraints:
        what = "one objective" if objectives > 1 else "no constraints"
        yield Problem("sampler.name", f"got 'cmaes', which knows {what}. Use tpe, gp or nsga2")
