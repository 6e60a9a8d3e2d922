"""Rules of sweeps that train configurations with several seeds, and of tournaments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.config.searched_values import domains_of
from orchestrator.config.trial import SEED
from orchestrator.config.validation.plain_data import shown
from orchestrator.errors import Problem, did_you_mean
from search_spaces import ChoiceDomain

_MOST_ARMS = 12


def seed_problems(sections: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield the settings that exclude several seeds of a configuration.

    Args:
        sections: Valid sections of the sweep by name.
    """
    seeds = sections.get("seeds", 1)
    if seeds == 1:
        return
    for name, _ in domains_of(SEED, sections["search"]):
        yield Problem(
            f"search.{name}",
            f"is searched, and seeds is {seeds}: both choose the seed of a trial. Leave one of them out",
        )
    objectives = sections.get("objective", ())
    if len(objectives) > 1:
        yield Problem(
            "seeds",
            f"got {seeds} with {len(objectives)} objectives; the configurations that may be the best are those of one "
            "objective. Use seeds: 1, or one objective with constraints",
        )
    scheduler = sections.get("trial_scheduler")
    if scheduler and scheduler.name == "pbt":
        yield Problem(
            "seeds",
            f"got {seeds} with trial_scheduler pbt, whose trials change their configuration. Use seeds: 1, or asha",
        )


def tournament_problems(sections: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield the settings that keep a tournament from giving every arm the same.

    Args:
        sections: Valid sections of the sweep by name.
    """
    name, search = sections.get("tournament"), sections["search"]
    if name is None:
        return
    if name not in search:
        yield Problem("tournament", f"got {shown(name)}; must be a searched name. {did_you_mean(name, list(search))}")
        return
    domain = search[name]
    if not isinstance(domain, ChoiceDomain) or domain.when or not 2 <= len(domain.choices) <= _MOST_ARMS:
        yield Problem(
            "tournament",
            f"got {shown(name)}; its arms are the choices of a name without a condition, 2 to {_MOST_ARMS} of them. "
            f"Write search.{name} as {{choices: [...]}}",
        )
        return
    arms = len(domain.choices)
    trials = sections.get("trials", arms)
    if trials % arms:
        yield Problem(
            "trials",
            f"got {trials}; each of the {arms} arms of the tournament gets the same number of configurations. "
            f"Use {trials + arms - trials % arms}",
        )
    scheduler = sections.get("trial_scheduler")
    if scheduler and scheduler.name != "none":
        yield Problem(
            "trial_scheduler.name",
            f"got {scheduler.name}; in a tournament every configuration is trained to the end, so that the arms get "
            "the same number of epochs. Use none",
        )
