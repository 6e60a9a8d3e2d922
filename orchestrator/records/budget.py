"""Budget of a sweep: limits of time, devices and patience, and the target that ends it."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.config.sections.budget import BudgetConfig
from orchestrator.config.sections.objective import ObjectiveConfig
from orchestrator.records.costs import SweepTotals

_HOUR_S = 3_600.0


@dataclass(frozen=True)
class LimitUsage:
    """Used part of a limit.

    Args:
        name: Name of the limit.
        used: Amount used, as text with its unit.
        limit: Limit, as text with its unit.
        share: Used share, from 0; above 1 when the limit was exceeded.
    """

    name: str
    used: str
    limit: str
    share: float


@dataclass
class Budget:
    """Limits of a sweep besides its number of trials; driver process.

    Args:
        limits: Present limits; they may be changed while the sweep runs.
        objective: First objective, which `target` and `patience` refer to.
    """

    limits: BudgetConfig
    objective: ObjectiveConfig

    def exhausted_limit(self, totals: SweepTotals) -> str | None:
        """Return the reason to end the sweep, as text for the user; None while every limit holds.

        Args:
            totals: Time, devices and results of the sweep so far.
        """
        limits = self.limits
        if limits.target is not None and totals.best is not None and self._reached(totals.best, limits.target):
            shown = f"{self.objective.metric} {totals.best:.4g} in trial {totals.best_trial}"
            return f"budget.target {limits.target:g} is reached: {shown}"
        if limits.wall_clock is not None and totals.wall_s >= limits.wall_clock:
            return f"budget.wall_clock is spent: {as_duration(totals.wall_s)} of {as_duration(limits.wall_clock)}"
        for name, limit, used_s in (
            ("cpu_hours", limits.cpu_hours, totals.cost.cpu_s),
            ("gpu_hours", limits.gpu_hours, totals.cost.gpu_s),
        ):
            if limit is not None and used_s >= limit * _HOUR_S:
                return f"budget.{name} is spent: {used_s / _HOUR_S:.3g} of {limit:g}"
        if limits.epochs is not None and totals.epochs >= limits.epochs:
            return f"budget.epochs is spent: {totals.epochs} of {limits.epochs}"
        if limits.patience is not None and totals.trials_since_best >= limits.patience:
            return f"budget.patience is over: {totals.trials_since_best} trials in a row brought no better value"
        return None

    def usage(self, totals: SweepTotals) -> list[LimitUsage]:
        """Return the used part of each configured limit; `target` is not a limit that is used up.

        Args:
            totals: Time, devices and results of the sweep so far.
        """
        limits, rows = self.limits, []
        if limits.wall_clock is not None:
            used, limit = as_duration(totals.wall_s), as_duration(limits.wall_clock)
            rows.append(LimitUsage("wall clock", used, limit, totals.wall_s / limits.wall_clock))
        for name, hours, used_s in (
            ("CPU-hours", limits.cpu_hours, totals.cost.cpu_s),
            ("GPU-hours", limits.gpu_hours, totals.cost.gpu_s),
        ):
            if hours is not None:
                rows.append(LimitUsage(name, f"{used_s / _HOUR_S:.3g}", f"{hours:g}", used_s / _HOUR_S / hours))
        if limits.epochs is not None:
            share = totals.epochs / limits.epochs
            rows.append(LimitUsage("epochs", str(totals.epochs), str(limits.epochs), share))
        if limits.patience is not None:
            share = totals.trials_since_best / limits.patience
            rows.append(
                LimitUsage("trials without a new best", str(totals.trials_since_best), str(limits.patience), share)
            )
        return rows

    def left_s(self, totals: SweepTotals, devices: tuple[float, float]) -> dict[str, float]:
        """Return the wall-clock seconds until each limit of time is reached, by the name of the limit.

        Args:
            totals: Time, devices and results of the sweep so far.
            devices: Number of CPUs and of GPUs that are busy from now on.
        """
        limits, left = self.limits, {}
        if limits.wall_clock is not None:
            left["wall_clock"] = limits.wall_clock - totals.wall_s
        for name, hours, used_s, busy in (
            ("cpu_hours", limits.cpu_hours, totals.cost.cpu_s, devices[0]),
            ("gpu_hours", limits.gpu_hours, totals.cost.gpu_s, devices[1]),
        ):
            if hours is not None and busy:
                left[name] = (hours * _HOUR_S - used_s) / busy
        return {name: max(0.0, seconds) for name, seconds in left.items()}

    def _reached(self, best: float, target: float) -> bool:
        return best >= target if self.objective.mode == "max" else best <= target


def as_duration(seconds: float) -> str:
    """Format seconds, such as `1h05m` or `42s`; days are written in hours."""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
