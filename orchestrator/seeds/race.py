"""Race of configurations: which of them get further seeds, decided from the records of a sweep alone.

All configurations are trained with the first seed. Then the best `PILOT` get their second one, which shows how much
results differ between seeds. From there on, seed by seed, every configuration that may still be the best gets the
next seed, until `seeds` are reached. A configuration is out once its mean lies below the best mean by more than

    t(1 - alpha, df) * s * sqrt(1 / n_best + 1 / n)

where s is the standard deviation between seeds, pooled over the configurations, df its degrees of freedom, and
alpha = `ALPHA` / (configurations - 1) / (seeds - 1): Bonferroni's bound over all comparisons of the race. A
configuration whose true mean is the best is thus dropped with a probability of at most `ALPHA`, if values are normal
with equal variance. One whose repeat failed, diverged or violates a constraint is out as well.

In a tournament, the best configuration of each arm by the first seed gets all seeds: equal numbers for every arm.

Each round is decided from the seeds of the rounds before it, never from those of its own. The decisions are therefore
the same after an interruption, and for any number of lanes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.records.status import TrialStatus
from orchestrator.records.trials import TrialRecord
from orchestrator.seeds.configurations import Configuration

PILOT = 4
"""Number of configurations that get a second seed before the deviation between seeds is known."""
ALPHA = 0.05
"""Largest probability that the race drops the best configuration."""
_OPEN = (TrialStatus.RUNNING, TrialStatus.INTERRUPTED)  # one that the user has paused is not waited for


@dataclass(frozen=True, order=True)
class Repeat:
    """Training of a configuration with a further seed.

    Args:
        configuration: Number of the trial with the first seed.
        replicate: Index of the seed, from 1.
    """

    configuration: int
    replicate: int


@dataclass(frozen=True)
class RaceState:
    """State of the race.

    Args:
        due: Repeats that may begin now, in order.
        open: Number of trials whose end the race waits for.
        contenders: Numbers of the configurations that may still be the best, best first.
    """

    due: tuple[Repeat, ...] = ()
    open: int = 0
    contenders: tuple[int, ...] = ()

    @property
    def is_over(self) -> bool:
        """True when no repeat is due and none is open."""
        return not self.due and not self.open


@dataclass
class _Known:
    """Part of the results that a round is decided from."""

    values: dict[int, dict[int, float]]
    begun: dict[int, int]
    lost: set[int] = field(default_factory=set)


def race(found: Sequence[Configuration], seeds: int, arms: Mapping[int, str] | None = None) -> RaceState:
    """Return the state of the race, replayed from its start.

    Args:
        found: Configurations of the sweep, all of them trained with the first seed or ended.
        seeds: Largest number of seeds of a configuration.
        arms: Arm of each configuration in a tournament, by number; None for a race.
    """
    by_number = {each.number: each for each in found}
    sign = -1.0 if found and found[0].objectives.configs[0].mode == "min" else 1.0
    signed = {number: {r: sign * value for r, value in each.values.items()} for number, each in by_number.items()}
    firsts = {number: {0: values[0]} for number, values in signed.items() if 0 in values}
    known = _Known(firsts, dict.fromkeys(firsts, 1))
    best_of_arms = None if arms is None else _best_of_each(known, arms)
    while True:
        contenders = may_be_best(_without_lost(known), seeds) if best_of_arms is None else best_of_arms
        is_pilot = best_of_arms is None and max(known.begun.values(), default=1) == 1
        repeats = _round(known, contenders[:PILOT] if is_pilot else contenders, seeds)
        if not repeats:
            return RaceState(contenders=tuple(contenders))
        begun = {repeat: _trial_of(by_number[repeat.configuration], repeat.replicate) for repeat in repeats}
        due = tuple(repeat for repeat, trial in begun.items() if trial is None)
        still_open = sum(trial is not None and trial.status in _OPEN for trial in begun.values())
        if due or still_open:
            return RaceState(due, still_open, tuple(contenders))
        for repeat in repeats:
            known.begun[repeat.configuration] += 1
            value = signed[repeat.configuration].get(repeat.replicate)
            if value is None:
                known.lost.add(repeat.configuration)
            else:
                known.values[repeat.configuration][repeat.replicate] = value


def may_be_best(values: Mapping[int, Sequence[float]], seeds: int) -> list[int]:
    """Return the numbers of the configurations that may be the best, best mean first.

    Args:
        values: Values by configuration, one for each seed so far; larger is better.
        seeds: Largest number of seeds, which bounds the number of decisions.
    """
    means = {number: math.fsum(each) / len(each) for number, each in values.items()}
    ranked = sorted(means, key=lambda number: (-means[number], number))
    freedom = sum(len(each) - 1 for each in values.values())
    if len(ranked) < 2 or not freedom:
        return ranked
    from scipy.stats import t  # takes half a second to import

    squares = math.fsum((value - means[number]) ** 2 for number, each in values.items() for value in each)
    alpha = ALPHA / (len(ranked) - 1) / max(1, seeds - 1)
    scale = float(t.ppf(1 - alpha, freedom)) * math.sqrt(squares / freedom)
    best = ranked[0]
    return [
        number
        for number in ranked
        if means[best] - means[number] <= scale * math.sqrt(1 / len(values[best]) + 1 / len(values[number]))
    ]


def _without_lost(known: _Known) -> dict[int, list[float]]:
    return {number: list(values.values()) for number, values in known.values.items() if number not in known.lost}


def _round(known: _Known, contenders: Sequence[int], seeds: int) -> list[Repeat]:
    """Return the repeats of the next round: the next seed of those contenders that have the fewest."""
    short = [number for number in contenders if known.begun[number] < seeds and number not in known.lost]
    fewest = min((known.begun[number] for number in short), default=seeds)
    return [Repeat(number, fewest) for number in short if known.begun[number] == fewest]


def _best_of_each(known: _Known, arms: Mapping[int, str]) -> list[int]:
    """Return the best configuration of each arm by the first seed, best first."""
    best: dict[str, int] = {}
    for number in may_be_best(_without_lost(known), 1):
        best.setdefault(arms[number], number)
    return list(best.values())


def _trial_of(configuration: Configuration, replicate: int) -> TrialRecord | None:
    return next((trial for trial in configuration.repeats if trial.replicate == replicate), None)
