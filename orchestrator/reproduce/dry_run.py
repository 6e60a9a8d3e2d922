"""Plan of a reproduction: rows and seeds that are done and left, sweeps, and cost, without starting anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from orchestrator.reproduce.measurements import missing_seeds, read_measurements
from orchestrator.reproduce.run import TableRun
from orchestrator.reproduce.scale import RunScale, row_costs, run_scale, training_macs
from orchestrator.reproduce.table_folder import PlannedSweep
from orchestrator.sweep.dry_run import DryRun, dry_run

__all__ = ["PlannedRow", "SweepPlan", "TablePlan", "plan_of"]


@dataclass(frozen=True)
class PlannedRow:
    """Row of a plan.

    Args:
        name: Name of the row.
        label: Row for readers.
        network: Name of the network.
        params: Number of its parameters.
        macs: Multiply-accumulates of one image.
        published: Published value; None where none was found.
        done: Seeds that are measured.
        left: Seeds that the command would run.
        training_macs: Multiply-accumulates of the training that is left.
        seconds: Estimated duration of the trials that are left, one after another; None before a trial has ended.
    """

    name: str
    label: str
    network: str
    params: int
    macs: int
    published: float | None
    done: Sequence[int]
    left: Sequence[int]
    training_macs: float
    seconds: float | None


@dataclass(frozen=True)
class SweepPlan:
    """Sweep of a plan.

    Args:
        name: Name of the sweep.
        resumed: True if it was begun by an earlier command.
        found: What it would do.
    """

    name: str
    resumed: bool
    found: DryRun = field(repr=False)


@dataclass(frozen=True)
class TablePlan:
    """Plan of a command.

    Args:
        run: The table as the command runs it.
        scale: Scale in numbers.
        rows: Rows that the command runs.
        sweeps: Sweeps in order.
    """

    run: TableRun = field(repr=False)
    scale: RunScale
    rows: Sequence[PlannedRow]
    sweeps: Sequence[SweepPlan]

    @property
    def cost_in_words(self) -> str:
        """Cost of what is left as one sentence."""
        trials = sum(len(row.left) for row in self.rows)
        if not trials:
            return "Nothing is left to run: the same command writes the report again."
        macs = sum(row.training_macs for row in self.rows)
        known = [row.seconds for row in self.rows if row.left]
        seconds = sum(second for second in known if second is not None)
        time = "" if None in known else f", about {seconds:,.0f} s of trials by those that have ended"
        sweeps = f"{len(self.sweeps)} sweep{'s' if len(self.sweeps) > 1 else ''}"
        return f"Left: {trials} trial{'s' if trials > 1 else ''} in {sweeps}, {macs:.3g} multiply-accumulates{time}."

    def as_dict(self) -> dict[str, Any]:
        """Return plain data without passwords."""
        return {
            **self.run.identity,
            "name": self.run.folder.name,
            "scale": {**asdict(self.scale), "seeds": list(self.scale.seeds), "words": self.scale.in_words},
            "rows": [{**asdict(row), "done": list(row.done), "left": list(row.left)} for row in self.rows],
            "sweeps": [
                {"name": sweep.name, "resumed": sweep.resumed, **sweep.found.as_dict()} for sweep in self.sweeps
            ],
        }


def plan_of(run: TableRun, *, address: str | None = None) -> TablePlan:
    """Find out what a command would run.

    Args:
        run: Result of `prepare_run`.
        address: Ray cluster to plan for; None takes this machine.

    Raises:
        ReproduceError: The table was begun with other settings under this name.
    """
    run.folder.check(run.identity, run.rows)
    found = read_measurements(run.folder.sweeps(), run.table.measure)
    lacking = missing_seeds(found, run.chosen, run.seeds)
    costs = row_costs(run.rows)
    unfinished = run.unfinished()
    sweeps = [*unfinished, *run.folder.plan(run.missing(besides=unfinished), write=False)]
    rows = []
    for row in run.rows:
        if row.name not in run.chosen:
            continue
        params, macs = costs[row.name]
        spent = [one.seconds for (name, _), one in found.items() if name == row.name and one.is_done and one.seconds]
        left = lacking[row.name]
        rows.append(
            PlannedRow(
                name=row.name,
                label=row.row.label,
                network=row.network,
                params=params,
                macs=macs,
                published=row.row.published.value,
                done=[seed for seed in run.seeds if seed not in left],
                left=left,
                training_macs=training_macs(row, macs, len(left)),
                seconds=len(left) * sum(spent) / len(spent) if spent else None,
            )
        )
    return TablePlan(
        run=run,
        scale=run_scale(run.scale, run.rows, run.seeds, None),
        rows=rows,
        sweeps=[_planned(sweep, run, address) for sweep in sweeps],
    )


def _planned(sweep: PlannedSweep, run: TableRun, address: str | None) -> SweepPlan:
    found = dry_run(sweep.config(run.rows[0]), address=address)
    return SweepPlan(sweep.name, sweep.folder.has_begun, found)
