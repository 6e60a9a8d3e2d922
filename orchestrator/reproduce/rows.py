"""Rows of a table with all their settings at one scale, checked before any work starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from orchestrator.config.load import load_sweep, overridden
from orchestrator.config.recipe import load_recipe
from orchestrator.config.sweep import SweepConfig
from orchestrator.data.datasets import list_datasets
from orchestrator.data.manifest import read_manifest
from orchestrator.data.sources import INSTALLED, installed_place
from orchestrator.data.storage import open_folder
from orchestrator.errors import ConfigError, Problem, ReproduceError, did_you_mean
from orchestrator.files.runs_dir import resolve_runs_dir
from orchestrator.reproduce.catalogue import PaperTable, TableRow, merged

__all__ = ["ResolvedRow", "chosen_rows", "resolve_rows"]

_DECIDED = {
    "name": "--name names the results",
    "trials": "--seeds sets the number of trials of a row",
    "seed": "--seeds sets the number of seeds",
    **dict.fromkeys(
        ("search", "space", "sampler", "trial_scheduler", "try_first", "warm_start", "objective", "constraints"),
        "a table decides what is searched",
    ),
    "recipe": "a table names its recipes",
}
"""Settings that a table decides itself, with the reason."""


@dataclass(frozen=True)
class ResolvedRow:
    """Row with all its settings.

    Args:
        row: Row of the table.
        config: Settings of the row as a sweep of one trial, checked.
    """

    row: TableRow
    config: SweepConfig = field(repr=False)

    @property
    def name(self) -> str:
        """Name of the row."""
        return self.row.name

    @property
    def network(self) -> str:
        """Name of the network."""
        assert self.config.model is not None
        return self.config.model.name


def resolve_rows(
    table: PaperTable,
    scale: str,
    *,
    assignments: Sequence[str] = (),
    values: Mapping[str, Any] = MappingProxyType({}),
) -> list[ResolvedRow]:
    """Return the rows of a table that are run at a scale, with checked settings.

    Args:
        table: Table.
        scale: One of `SCALES`.
        assignments: Assignments as in `load_sweep`, laid over the settings of every row.
        values: Values by dotted setting, as in `load_sweep`.

    Raises:
        ReproduceError: The table has no such scale, or another dataset is meant.
        ConfigError: A setting is wrong, or one that the table decides.
        DataError: A dataset is not installed.
    """
    _require_scale(table, scale)
    _refuse_decided(assignments)
    return [_resolved(table, row, scale, assignments, values) for row in table.rows_at(scale)]


def chosen_rows(table: PaperTable, scale: str, only: Sequence[str]) -> list[str]:
    """Return the names of the rows to run, in the order of the table.

    Args:
        table: Table.
        scale: One of its scales.
        only: Names that were asked for; empty for all.

    Raises:
        ReproduceError: The table has no such row at this scale; the text names the nearest one.
    """
    known = [row.name for row in table.rows_at(scale)]
    for name in only:
        if name not in known:
            remedy = did_you_mean(name, known)
            raise ReproduceError(f"{table.paper} {table.name} has no row '{name}' at scale {scale}. {remedy}".rstrip())
    return [name for name in known if not only or name in only]


def _require_scale(table: PaperTable, scale: str) -> None:
    if scale not in table.scales:
        offered = ", ".join(table.scales)
        raise ReproduceError(f"{table.paper} {table.name} has no scale '{scale}'. Use --scale {offered}")


def _refuse_decided(assignments: Sequence[str]) -> None:
    problems = []
    for assignment in assignments:
        group = assignment.partition("=")[0].strip().partition(".")[0]
        if group in _DECIDED:
            problems.append(Problem(f"--set {assignment}", f"is not for tables: {_DECIDED[group]}. Leave it out"))
    if problems:
        raise ConfigError(problems)


def _resolved(
    table: PaperTable, row: TableRow, scale: str, assignments: Sequence[str], values: Mapping[str, Any]
) -> ResolvedRow:
    settings = merged(table.settings[scale], row.settings[scale])
    settings.pop("seeds", None)
    dataset = None
    if recipe := settings.pop("recipe", None):
        found = load_recipe(recipe)
        dataset = found.dataset
        settings = merged(found.settings, settings)
    settings.update(name=row.name.replace(".", "_"), trials=1, trial_scheduler={"name": "none"}, try_first=[])
    settings = _with_one_dataset(settings, overridden(settings, assignments, values)[0])
    where = f"{table.paper} {table.name}, row {row.name}"
    if dataset is not None and not (settings.get("dataset") or {}).get("uri"):
        raise ReproduceError(
            f"{where} trains on {dataset}. Prepare it with `spatialsweep data prepare {dataset} --from ARCHIVE --to "
            "URI`, and add --set dataset.uri=URI"
        )
    config = load_sweep(settings, label=where, overrides=_unread(assignments, settings), values={})
    _check_dataset(config, dataset, where)
    return ResolvedRow(row, config)


def _unread(assignments: Sequence[str], settings: Mapping[str, Any]) -> list[str]:
    """Return the assignments that cannot be read, so that they are reported with all other problems."""
    return [assignment for assignment in assignments if overridden(settings, [assignment])[1]]


def _with_one_dataset(before: Mapping[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings in which a dataset given by an assignment replaces that of the table, by name or by URI."""
    old, new = before.get("dataset") or {}, settings.get("dataset")
    if not isinstance(new, Mapping) or not (new.get("name") and new.get("uri")):
        return settings
    replaced = "name" if new.get("uri") != old.get("uri") else "uri"
    return {**settings, "dataset": {key: value for key, value in new.items() if key != replaced}}


def _check_dataset(config: SweepConfig, wanted: str | None, where: str) -> None:
    """Check that the images are those of the recipe, and that a dataset of the system is installed."""
    dataset = config.dataset
    if wanted is not None and dataset.uri is not None:
        found = read_manifest(open_folder(dataset.uri)).name
        if found != wanted:
            raise ReproduceError(f"{where} trains on {wanted}; {dataset.uri} holds {found}")
    if dataset.name in INSTALLED and dataset.name in list_datasets():
        prepared = Path(resolve_runs_dir(config.runs_dir)) / "datasets" / dataset.name
        if not prepared.exists():
            installed_place(dataset.name)
