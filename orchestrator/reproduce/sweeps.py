"""Sweeps that make a table: a grid over rows and seeds, in as few sweeps as the settings of the rows allow.

Rows that share dataset, resources and all settings that cannot be searched are one sweep. In it the name `row` chooses
the row, the name `seed` the seed, and every other setting in which the rows differ is a constant under the condition of
its row. Rows with several networks are chosen under the condition of their network.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.config.sections.training import TrainingConfig
from orchestrator.config.sweep import SweepConfig
from orchestrator.config.trial import ROW, SEED
from orchestrator.reproduce.rows import ResolvedRow
from search_spaces import SearchSpace, setting_of
from search_spaces.grid import grid_points

__all__ = ["PLACES", "Cell", "cell_of", "cells_of", "sweep_settings", "sweeps_of"]

Cell = tuple[str, int]
"""Row and seed."""

_OF_A_ROW = ("name", "model", "training", "search", "trials", "sampler", "trial_scheduler", "try_first", "seed")
PLACES = ("runs_dir", "storage", "tracking")
"""Settings that say where a sweep is recorded; every command has its own: an address may hold a password."""


def cell_of(params: Mapping[str, Any]) -> Cell | None:
    """Return row and seed of a trial, by its searched values; None for a trial of another sweep."""
    found = {setting_of(name): value for name, value in params.items() if setting_of(name) in (ROW, SEED)}
    return (str(found[ROW]), int(found[SEED])) if len(found) == len((ROW, SEED)) else None


def cells_of(space: SearchSpace) -> list[Cell]:
    """Return all rows and seeds that a sweep trains, by its search space."""
    cells = (cell_of(point) for point in grid_points(space))
    return [cell for cell in cells if cell is not None]


def sweeps_of(rows: Sequence[ResolvedRow], missing: Mapping[str, Sequence[int]]) -> list[dict[str, Any]]:
    """Return the settings of the sweeps that train missing cells of a table, without their names and places.

    Args:
        rows: Rows of the table.
        missing: Missing seeds by name of the row; rows without any are left out.
    """
    groups: dict[str, list[ResolvedRow]] = {}
    for row in rows:
        if missing.get(row.name):
            groups.setdefault(_shared(row.config), []).append(row)
    return [sweep_settings(group, missing) for group in groups.values()]


def sweep_settings(rows: Sequence[ResolvedRow], missing: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Return the settings of one sweep over rows whose other settings are equal, without its name and places.

    Args:
        rows: Rows of the sweep, at least one.
        missing: Seeds of each row, by its name.
    """
    networks = list(dict.fromkeys(row.network for row in rows))
    trained = [_training(row.config) for row in rows]
    options = [_options(row.config) for row in rows]
    fixed, fixed_options = _equal(trained), _equal(options) if len(networks) == 1 else {}
    written = rows[0].config.model_dump(mode="json", exclude_defaults=True)
    base = {key: value for key, value in written.items() if key not in (*_OF_A_ROW, *PLACES)}
    model = {"name": networks[0], "options": fixed_options, **_weights(rows[0].config)}
    search: dict[str, Any] = {}
    if len(networks) > 1:
        search["model"] = {"choices": networks}
    names = {network: ROW if len(networks) == 1 else f"{network}/{ROW}" for network in networks}
    for network, name in names.items():
        when = {} if len(networks) == 1 else {"when": {"model": network}}
        search[name] = {"choices": [row.name for row in rows if row.network == network], **when}
    for row, training, own in zip(rows, trained, options, strict=True):
        changed = {key: training[key] for key in training if key not in fixed}
        changed |= {key: own[key] for key in own if key not in fixed_options}
        for key, value in changed.items():
            search[f"{row.name}/{key}"] = {"value": value, "when": {names[row.network]: row.name}}
    search.update(_seeds(rows, missing, names))
    return {
        **base,
        **({"model": model} if len(networks) == 1 else {}),
        "training": _changed(_tied(rows[0].config) | fixed),
        "search": search,
        "trials": sum(len(missing[row.name]) for row in rows),
        "sampler": {"name": "grid"},
        "trial_scheduler": {"name": "none"},
        "try_first": [],
    }


def _seeds(
    rows: Sequence[ResolvedRow], missing: Mapping[str, Sequence[int]], names: Mapping[str, str]
) -> dict[str, Any]:
    """Return the domain of the seeds, or one for each row where rows lack different seeds."""
    wanted = {row.name: list(missing[row.name]) for row in rows}
    if all(seeds == wanted[rows[0].name] for seeds in wanted.values()):
        return {SEED: {"choices": wanted[rows[0].name]}}
    return {f"{row.name}/{SEED}": {"choices": wanted[row.name], "when": {names[row.network]: row.name}} for row in rows}


def _shared(config: SweepConfig) -> str:
    """Return a text that is equal for rows that may be one sweep."""
    content = {key: value for key, value in config.model_dump(mode="json").items() if key not in _OF_A_ROW}
    lists = {key: value for key, value in _options(config).items() if not _is_scalar(value)}
    weights = _weights(config)
    network = config.model.name if config.model and (lists or weights) else ""
    return json.dumps([content, _tied(config), network, lists, weights], sort_keys=True, default=list)


def _weights(config: SweepConfig) -> dict[str, Any]:
    """Return the settings of the weights that the training starts from; empty for random ones."""
    if config.model is None:
        return {}
    return config.model.model_dump(mode="json", exclude={"name", "options"}, exclude_defaults=True)


def _options(config: SweepConfig) -> dict[str, Any]:
    return dict(config.model.options) if config.model else {}


def _tied(config: SweepConfig) -> dict[str, Any]:
    """Return the settings of training that cannot be searched, since they are lists or absent."""
    whole: dict[str, Any] = config.training.model_dump(mode="json")
    return {name: value for name, value in whole.items() if not _is_scalar(value)}


def _training(config: SweepConfig) -> dict[str, Any]:
    """Return the settings of training that a search may contain."""
    tied, whole = _tied(config), config.training.model_dump(mode="json")
    return {name: value for name, value in whole.items() if name not in tied}


def _changed(training: Mapping[str, Any]) -> dict[str, Any]:
    usual = TrainingConfig().model_dump(mode="json")
    return {name: value for name, value in training.items() if value != usual[name]}


def _equal(settings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the settings that all have, with the same value."""
    first, *others = settings
    return {key: value for key, value in first.items() if all(key in other and other[key] == value for other in others)}


def _is_scalar(value: Any) -> bool:
    return isinstance(value, bool | int | float | str)
