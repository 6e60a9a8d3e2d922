"""Reproduction of a table from its name to its report, in one command or in several."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from rich.console import Console

from orchestrator.config.sweep import SweepConfig
from orchestrator.data.datasets import current_hash, locate_dataset
from orchestrator.data.scenes.manifest import read_any_manifest
from orchestrator.data.storage import open_folder
from orchestrator.errors import ConfigError, Problem
from orchestrator.files.runs_dir import resolve_runs_dir
from orchestrator.records.status import TrialStatus
from orchestrator.reproduce.catalogue import PaperTable, load_table
from orchestrator.reproduce.measurements import is_unfinished, missing_seeds, read_measurements
from orchestrator.reproduce.report import ReportFiles, write_report
from orchestrator.reproduce.result import TableResult, table_result
from orchestrator.reproduce.rows import ResolvedRow, chosen_rows, resolve_rows
from orchestrator.reproduce.scale import row_costs, run_scale
from orchestrator.reproduce.sweeps import cells_of, sweeps_of
from orchestrator.reproduce.table_folder import DATASET_CONTENT, PlannedSweep, TableFolder
from orchestrator.results.stored_sweep import read_sweep
from orchestrator.sweep.run import run_sweep

__all__ = ["MOST_SEEDS", "Reproduction", "TableRun", "prepare_run", "reproduce", "result_of"]

MOST_SEEDS = 1000
_USUAL_SEEDS = 3


@dataclass(frozen=True)
class TableRun:
    """Table as one command runs it.

    Args:
        table: The table.
        scale: Scale of the rows.
        rows: Rows of the table at that scale, with their settings.
        chosen: Names of the rows that the command runs.
        seeds: Seeds of every row.
        folder: Folder of the table.
        dataset_content: Hash of the images of a prepared dataset, or name of a registered one.
    """

    table: PaperTable
    scale: str
    rows: Sequence[ResolvedRow]
    chosen: Sequence[str]
    seeds: Sequence[int]
    folder: TableFolder = field(repr=False)
    dataset_content: str

    @property
    def identity(self) -> dict[str, str]:
        """Paper, table, scale and dataset, as the folder of the table records them."""
        named = {"paper": self.table.paper, "table": self.table.name, "scale": self.scale}
        return {**named, DATASET_CONTENT: self.dataset_content}

    def unfinished(self) -> list[PlannedSweep]:
        """Return the sweeps of earlier commands that are to be resumed."""
        return [sweep for sweep in self.folder.sweeps() if is_unfinished(sweep)]

    def missing(self, *, besides: Sequence[PlannedSweep] = ()) -> list[dict[str, Any]]:
        """Return the settings of the sweeps that train what no sweep has trained.

        Args:
            besides: Sweeps that will have been resumed by then.
        """
        found = read_measurements(self.folder.sweeps(), self.table.measure)
        lacking = missing_seeds(found, self.chosen, self.seeds)
        pending = {cell for sweep in besides for cell in cells_of(sweep.config(self.rows[0]).space)}
        left = {row: [seed for seed in seeds if (row, seed) not in pending] for row, seeds in lacking.items()}
        return sweeps_of(self.rows, left)


@dataclass(frozen=True)
class Reproduction:
    """Outcome of a reproduction.

    Args:
        result: Result of the table until now.
        files: Files of its report.
        interrupted: True if a sweep was interrupted, so that the same command continues it.
    """

    result: TableResult
    files: ReportFiles
    interrupted: bool


def prepare_run(
    paper: str,
    table: str,
    *,
    scale: str = "paper",
    seeds: int | None = None,
    only: Sequence[str] = (),
    assignments: Sequence[str] = (),
    name: str | None = None,
    values: Mapping[str, Any] = MappingProxyType({}),
) -> TableRun:
    """Resolve and check a table before any work starts.

    Args:
        paper: Name of the paper.
        table: Name of the table.
        scale: `paper` or `small`.
        seeds: Number of seeds of every row; None takes that of the table.
        only: Names of the rows to run; empty for all.
        assignments: Assignments as in `load_sweep`, laid over the settings of every row.
        name: Name of the results; None makes one of paper, table and scale.
        values: Values by dotted setting, as in `load_sweep`.

    Raises:
        ReproduceError: There is no such paper, table, scale or row.
        ConfigError: A setting is wrong.
        DataError: The dataset is not there.
    """
    found = load_table(paper, table)
    rows = resolve_rows(found, scale, assignments=assignments, values=values)
    chosen = chosen_rows(found, scale, only)
    count = int(found.settings[scale].get("seeds", _USUAL_SEEDS)) if seeds is None else seeds
    if not 1 <= count <= MOST_SEEDS:
        raise ConfigError([Problem("--seeds", f"got {count}; must be from 1 to {MOST_SEEDS}. Use {_USUAL_SEEDS}")])
    folder = TableFolder(resolve_runs_dir(rows[0].config.runs_dir), name or f"{paper}-{table}-{scale}")
    return TableRun(found, scale, rows, chosen, range(count), folder, _dataset_content(rows[0].config))


def reproduce(
    run: TableRun,
    *,
    address: str | None = None,
    console: Console | None = None,
    verbose: bool = False,
    allow_changed: bool = False,
    begun: Callable[[PlannedSweep], None] = lambda _: None,
) -> Reproduction:
    """Run the sweeps of a table that are not finished, and write its report; blocks until they have ended.

    Args:
        run: Result of `prepare_run`.
        address: Ray cluster to join; None starts a private instance.
        console: Console for progress; None prints nothing.
        verbose: Show the output of Ray and its workers.
        allow_changed: Resume sweeps although code or data have changed.
        begun: Called before each sweep.

    Raises:
        ReproduceError: The table was begun with other settings under this name.
    """
    run.folder.begin(run.identity, run.rows)

    def ends_well(sweep: PlannedSweep) -> bool:
        begun(sweep)
        resume = sweep.folder.has_begun
        config = sweep.config(run.rows[0])
        done = run_sweep(
            config,
            resume=resume,
            allow_changed=allow_changed,
            address=address,
            console=console,
            verbose=verbose,
            sweep_file=sweep.file,
        )
        return done.status is not TrialStatus.INTERRUPTED

    went_well = all(ends_well(sweep) for sweep in run.unfinished())
    went_well = went_well and all(ends_well(sweep) for sweep in run.folder.plan(run.missing()))
    result = result_of(run)
    return Reproduction(result, write_report(result, run.folder.path), not went_well)


def _dataset_content(config: SweepConfig) -> str:
    """Return the hash of the images of a prepared dataset, wherever it lies; of a registered one its name."""
    if config.dataset.uri is None:
        return str(config.dataset.name)
    return current_hash(read_any_manifest(open_folder(config.dataset.uri)).content_hash)


def result_of(run: TableRun) -> TableResult:
    """Return the result of the rows of this command and of earlier ones, in the order of the table.

    Args:
        run: Result of `prepare_run`.
    """
    config = run.rows[0].config
    runs_dir = resolve_runs_dir(config.runs_dir)
    prepared = locate_dataset(config.dataset.name, config.dataset.uri, runs_dir / "datasets")
    found = read_measurements(run.folder.sweeps(), run.table.measure)
    measured = {row for row, _ in found}
    shown = [row for row in run.rows if row.name in measured or row.name in run.chosen]
    seeds = sorted({seed for _, seed in found} | set(run.seeds))
    return table_result(
        run.table,
        run.folder.name,
        shown,
        found,
        scale=run_scale(run.scale, shown, seeds, prepared),
        costs=row_costs(shown),
        facts=_facts(run.folder.sweeps()),
    )


def _facts(sweeps: Sequence[PlannedSweep]) -> dict[str, str]:
    """Return versions and revision of the code that trained; where sweeps differ, all of them."""
    found: dict[str, dict[str, None]] = {}
    for sweep in sweeps:
        if sweep.folder.has_begun:
            for name, text in read_sweep(sweep.folder).facts.items():
                found.setdefault(name, {})[text] = None
    return {name: ", ".join(texts) for name, texts in found.items()}
