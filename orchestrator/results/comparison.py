"""Comparison of sweeps: results, costs and differing settings."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pydantic import TypeAdapter

from orchestrator.config.flat_names import flat_names
from orchestrator.errors import JournalError
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.records.ledger import TrialStatus
from orchestrator.results.stored_sweep import StoredSweep, read_sweep
from search_spaces import Domain, SearchSpace

# Name and place of a sweep do not affect what it searches.
_IGNORED = ("name", "runs_dir", "tracking.", "storage.")


def facts_of(sweep: StoredSweep) -> dict[str, Any]:
    """Return the status of a sweep as plain data, for `spatialsweep status` and `list`."""
    result, totals = sweep.result, sweep.result.so_far
    best, primary = result.best, result.task.primary.name
    counts = Counter(str(record.status) for record in result.records if not record.is_repeat)
    return {
        "name": sweep.name,
        "state": str(sweep.state),
        "ended_by": result.ended_by or None,
        "folder": str(sweep.folder),
        "task": result.task.name,
        "objective": {"metric": result.metric, "mode": result.mode},
        "best": None
        if best is None
        else {
            "trial": best.number,
            "value": best.value,
            "values": dict(best.values),
            "test": dict(best.test),
            f"test_{primary}": best.test.get(primary),
            "epochs": best.epochs,
            "status": str(best.status),
            "feasible": best.feasible,
            "params": dict(best.params),
            **({} if best.configuration is None else {"over_seeds": asdict(best.configuration)}),
        },
        "trials_wanted": sweep.config.get("trials"),
        "trials": {str(status): counts[status] for status in TrialStatus if counts[status]},
        "seeds": result.seeds,
        "repeats": sum(record.is_repeat for record in result.records),
        "running": _running(sweep),
        "rejected": dict(sweep.rejected),
        "epochs": sum(record.epochs for record in result.records),
        "wall_s": totals.wall_s,
        "cost": totals.cost.as_dict(),
        "budget": {key: value for key, value in (sweep.config.get("budget") or {}).items() if value is not None},
        "space": space_fingerprint(sweep.config),
        "last_event_age_s": sweep.age_s,
        "tracking_uri": result.tracking_uri,
    }


def _running(sweep: StoredSweep) -> list[dict[str, Any]]:
    """Return the progress of the epochs that train now."""
    rows = []
    for record in sweep.result.records:
        found = sweep.progress.get(record.number)
        if record.status is not TrialStatus.RUNNING or found is None or found.epoch <= record.epochs:
            continue
        epochs = int(record.config["training"]["epochs"])
        epoch_s = record.reports[-1].get("epoch_time_s") if record.reports else None
        rows.append(
            {
                "trial": found.trial,
                "epoch": found.epoch,
                "epochs": epochs,
                "step": found.step,
                "steps": found.steps,
                "images_per_s": found.images_per_s,
                "loss": found.loss if math.isfinite(found.loss) else None,
                "left_s": found.trial_left_s(epochs, epoch_s),
            }
        )
    return rows


def status_row(folder: SweepFolder) -> dict[str, Any]:
    """Return the row of a sweep in a list; a damaged journal is reported in the row instead of raising.

    Args:
        folder: Folder of the sweep.
    """
    try:
        return facts_of(read_sweep(folder))
    except JournalError as error:
        return {"name": folder.name, "state": "damaged", "folder": str(folder.path), "damage": str(error)}


def space_fingerprint(config: Mapping[str, Any]) -> str:
    """Return a fingerprint that is equal for sweeps with the same domains and conditions.

    Args:
        config: Recorded settings of a sweep.
    """
    domains: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, Domain])
    return SearchSpace(domains.validate_python(config.get("search") or {})).fingerprint


def differing_settings(sweeps: Sequence[StoredSweep]) -> dict[str, list[Any]]:
    """Return the settings that differ, each with its value in every sweep; None where it is absent."""
    flat = [dict(flat_names(sweep.config)) for sweep in sweeps]
    names = dict.fromkeys(name for settings in flat for name in settings if not name.startswith(_IGNORED))
    rows = {name: [settings.get(name) for settings in flat] for name in names}
    return {name: values for name, values in rows.items() if any(value != values[0] for value in values)}


def best_params(sweeps: Sequence[StoredSweep]) -> dict[str, list[Any]]:
    """Return the searched values of the best trials; None where a name was not active."""
    found = [dict(best.params) if (best := sweep.result.best) else {} for sweep in sweeps]
    names = dict.fromkeys(name for params in found for name in params)
    return {name: [params.get(name) for params in found] for name in names}


def comparison(sweeps: Sequence[StoredSweep]) -> dict[str, Any]:
    """Return the comparison as plain data; lists are in the order of the sweeps."""
    return {
        "sweeps": [facts_of(sweep) for sweep in sweeps],
        "same_space": len({space_fingerprint(sweep.config) for sweep in sweeps}) == 1,
        "differing_settings": differing_settings(sweeps),
        "best_params": best_params(sweeps),
    }
