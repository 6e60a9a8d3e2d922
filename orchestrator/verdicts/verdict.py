"""Verdict on a question such as "does Spatial Bias beat non-local?", from the trials of a stored sweep."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import ConfigError, Problem
from orchestrator.results.stored_sweep import StoredSweep, SweepState, find_sweep, read_sweep
from orchestrator.verdicts.arms import Arm, Metric, chosen_unit, collect_arms, compared_name, metric_of
from orchestrator.verdicts.statistics import (
    MOST_NEEDED,
    Unit,
    hedges_g,
    holm,
    magnitude,
    p_value,
    size_needed,
    superiority,
    superiority_interval,
)

ALPHA = 0.05
_EPOCHS_TOLERANCE = 0.05
_MACS_TOLERANCE = 0.1
_INDEPENDENT = ("random", "grid", "qmc")


@dataclass(frozen=True)
class Comparison:
    """Comparison of two arms.

    Args:
        one: Name of the first arm.
        other: Name of the other arm.
        superiority: Probability that a value of the first arm is better than one of the other; ties count half.
        low: Lower end of its interval.
        high: Upper end of its interval.
        cliffs_delta: Effect size between -1 and 1: twice the probability, less 1.
        magnitude: Its size in words: negligible, small, medium or large.
        hedges_g: Difference of the means in standard deviations; None where it is not defined.
        difference: Difference of the means in units of the metric, positive where the first arm is better; None
            without finite values.
        p_value: Two-sided p-value of the arms being the same.
        p_corrected: The same, corrected for the number of comparisons.
        better: Name of the better arm; None where that is not decided.
        needed: Seeds or configurations that each arm would need for a decision, if the difference is as it seems; None
            where it is decided, or where more than 1,000 are needed.
    """

    one: str
    other: str
    superiority: float
    low: float
    high: float
    cliffs_delta: float
    magnitude: str
    hedges_g: float | None
    difference: float | None
    p_value: float
    p_corrected: float
    better: str | None
    needed: int | None


@dataclass(frozen=True)
class Verdict:
    """Verdict of a comparison of arms.

    Args:
        sweep: Name of the sweep.
        by: Setting whose choices are compared.
        metric: Metric that they are compared by.
        mode: `max` or `min`.
        unit: What is compared: `seeds` of the best configuration of each arm, or its `configurations`.
        alpha: Probability of a wrong decision, over all comparisons together.
        arms: Arms, in the order of their first trials.
        comparisons: Every pair of arms.
        winner: Name of the arm that is better than every other; None where that is not decided.
        warnings: What keeps the comparison from being fair, such as unequal budgets.
        notes: What a reader should know besides.
    """

    sweep: str
    by: str
    metric: str
    mode: str
    unit: Unit
    alpha: float
    arms: tuple[Arm, ...]
    comparisons: tuple[Comparison, ...]
    winner: str | None
    warnings: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def text(self) -> str:
        """Verdict in one sentence."""
        if self.winner is not None:
            others = " and ".join(arm.name for arm in self.arms if arm.name != self.winner)
            return f"{self.winner} is better than {others}"
        decided = [f"{each.better} is better than {_loser(each)}" for each in self.comparisons if each.better]
        open_pairs = [each for each in self.comparisons if each.better is None]
        listed = ", ".join(f"{each.one} or {each.other}" for each in open_pairs)
        known = f"; {', '.join(decided)}" if decided else ""
        return f"Not decided: {listed}{known}. {self.advice}".rstrip()

    @property
    def advice(self) -> str:
        """Estimate of the further seeds or configurations that would decide; empty where every pair is decided."""
        open_pairs = [each for each in self.comparisons if each.better is None]
        if not open_pairs:
            return ""
        have = min(len(arm.sample(self.unit)) for arm in self.arms)
        needed = [each.needed for each in open_pairs if each.needed is not None]
        if not needed:
            return f"No difference that {MOST_NEEDED:,} {self.unit} for each would show: the arms are practically equal"
        more = max(1, max(needed) - have)
        return f"About {more:,} more {self.unit} for each would decide, if the difference is as it seems"

    def as_dict(self) -> dict[str, Any]:
        """Return plain data; a value of a diverged configuration is None, and values have the sign of the metric."""
        found = {**asdict(self), "unit": str(self.unit), "text": self.text}
        sign = 1.0 if self.mode == "max" else -1.0
        for arm in found["arms"]:
            for name in ("values", "fresh"):
                arm[name] = [sign * value if math.isfinite(value) else None for value in arm[name]]
        return found


def verdict(
    sweep: str | Path | StoredSweep,
    *,
    by: str | None = None,
    objective: str | None = None,
    alpha: float = ALPHA,
    runs_dir: str | Path | None = None,
) -> Verdict:
    """Compare the choices of a setting on the trials of a sweep, cautiously.

    If every arm has a configuration with at least two seeds beside the first, the seeds of the best configuration of
    each arm are compared, without the first one, which has chosen it. Otherwise the configurations are compared.

    Args:
        sweep: Name or folder of a sweep, finished or not, or a stored sweep.
        by: Setting whose choices are compared; None takes that of the tournament, else the network.
        objective: Metric to compare by; None takes the first objective of the sweep.
        alpha: Probability of a wrong decision, over all comparisons together; above 0 and below 1.
        runs_dir: Folder of results in which to look up the name; None takes the default.

    Raises:
        SweepNameError: There is no such sweep.
        JournalError: Its journal is damaged.
        ConfigError: The setting has no two choices with two values each, or no trial has the metric.
    """
    if not 0 < alpha < 1:
        raise ConfigError([Problem("alpha", f"got {alpha:g}; must be above 0 and below 1. Use {ALPHA:g}")])
    stored = sweep if isinstance(sweep, StoredSweep) else read_sweep(find_sweep(sweep, runs_dir))
    metric = metric_of(stored, objective)
    name = compared_name(stored, by)
    arms = collect_arms(stored, name, metric)
    unit = chosen_unit(arms)
    comparisons = compare_arms(arms, unit, alpha)
    return Verdict(
        sweep=stored.name,
        by=name,
        metric=metric.name,
        mode=metric.mode,
        unit=unit,
        alpha=alpha,
        arms=tuple(arms),
        comparisons=comparisons,
        winner=_winner(arms, comparisons),
        warnings=tuple(unfairness(arms)),
        notes=tuple(_notes(stored, arms, unit, metric)),
    )


def compare_arms(arms: Sequence[Arm], unit: Unit, alpha: float = ALPHA) -> tuple[Comparison, ...]:
    """Compare every pair of arms, corrected for the number of pairs.

    Args:
        arms: Arms with at least two values each.
        unit: What is compared.
        alpha: Probability of a wrong decision, over all pairs together.
    """
    pairs = list(itertools.combinations(arms, 2))
    raw = [p_value(one.sample(unit), other.sample(unit), unit) for one, other in pairs]
    return tuple(
        _comparison(one, other, unit, p=p, corrected=corrected, alpha=alpha, pairs=len(pairs))
        for (one, other), p, corrected in zip(pairs, raw, holm(raw), strict=True)
    )


def unfairness(arms: Sequence[Arm]) -> list[str]:
    """Return how the budgets and the networks of the arms differ; empty where they are equal.

    Args:
        arms: Arms to compare.
    """
    found = []
    for what, counts, tolerance in (
        ("configurations", [arm.configurations for arm in arms], 0.0),
        ("epochs", [arm.epochs for arm in arms], _EPOCHS_TOLERANCE),
        ("seeds", [arm.seeds for arm in arms], 0.0),
    ):
        if max(counts) > (1 + tolerance) * min(counts):
            each = ", ".join(f"{arm.name} {count}" for arm, count in zip(arms, counts, strict=True))
            found.append(f"THE BUDGETS WERE NOT EQUAL: {what}: {each}. A tournament gives every arm the same")
    macs = [arm.macs for arm in arms if arm.macs is not None]
    if macs and len(macs) == len(arms) and max(macs) > (1 + _MACS_TOLERANCE) * min(macs):
        ratio = max(macs) / min(macs)
        found.append(
            f"NOT AT EQUAL MACS: the best networks differ by a factor of {ratio:.2f}. Bound them with limits.max_macs, "
            "or fix their size"
        )
    return found


def _comparison(
    one: Arm, other: Arm, unit: Unit, *, p: float, corrected: float, alpha: float, pairs: int
) -> Comparison:
    first, second = one.sample(unit), other.sample(unit)
    share = superiority(first, second)
    low, high = superiority_interval(share, (len(first), len(second)), 1 - alpha / pairs)
    means = [_mean(first), _mean(second)]
    difference = None if means[0] is None or means[1] is None else means[0] - means[1]
    leads, is_on_one_side = share > 0.5, share != 0.5
    if unit is Unit.SEEDS and difference is not None:  # the test is one of means: most values must agree with it
        is_on_one_side = (share - 0.5) * difference > 0
    is_decided = corrected < alpha and is_on_one_side
    return Comparison(
        one=one.name,
        other=other.name,
        superiority=share,
        low=low,
        high=high,
        cliffs_delta=2 * share - 1,
        magnitude=magnitude(2 * share - 1),
        hedges_g=hedges_g(first, second),
        difference=difference,
        p_value=p,
        p_corrected=corrected,
        better=(one.name if leads else other.name) if is_decided else None,
        needed=None if is_decided else size_needed(first, second, unit, alpha / pairs),
    )


def _winner(arms: Sequence[Arm], comparisons: Sequence[Comparison]) -> str | None:
    wins = [each.better for each in comparisons]
    return next((arm.name for arm in arms if wins.count(arm.name) == len(arms) - 1), None)


def _loser(each: Comparison) -> str:
    return each.other if each.better == each.one else each.one


def _mean(values: Sequence[float]) -> float | None:
    finite = [value for value in values if math.isfinite(value)]
    return math.fsum(finite) / len(finite) if finite else None


def _notes(sweep: StoredSweep, arms: Sequence[Arm], unit: Unit, metric: Metric) -> list[str]:
    notes = []
    if sweep.state is not SweepState.FINISHED:
        notes.append(f"The sweep is {sweep.state}: the verdict is of the trials that have ended")
    if unit is Unit.SEEDS:
        notes.append(
            "The best configuration of each arm is compared, over its seeds without the first one, which has chosen it"
        )
    else:
        notes.append(
            "Configurations are compared, each with its first seed; `seeds` of 3 or more compares the best ones"
        )
        sampler = (sweep.config.get("sampler") or {}).get("name", "tpe")
        if sampler not in _INDEPENDENT:
            notes.append(
                f"Configurations that {sampler} proposes depend on each other: intervals and p-values are too "
                "optimistic. The sampler random gives independent ones"
            )
    if stopped := sum(arm.stopped_early for arm in arms):
        notes.append(f"{stopped} configurations were stopped early or paused: their values are of fewer epochs")
    if diverged := sum(arm.diverged for arm in arms):
        notes.append(f"{diverged} configurations diverged and count as worse than all others")
    chosen_on_test = (sweep.config.get("dataset") or {}).get("select_on") == "test"
    if chosen_on_test and metric.name.startswith("val/"):
        notes.append("Epochs were chosen on the test images, so that all values are too good")
    return notes
