"""Folders of sweeps, written through the real ledger without training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.config import load_sweep, resolve_trial
from orchestrator.records.journal import Journal
from orchestrator.records.ledger import Ledger, TrialStatus

PLAN: dict[str, Any] = {
    "dataset": {"name": "digits"},
    "model": {"name": "conv_resnet26_small"},
    "search": {"lr": {"type": "float", "low": 1e-3, "high": 1e-2, "log": True}},
    "trials": 4,
    "budget": {"price_per_cpu_hour": 3600.0},
}
FakeTrial = tuple[TrialStatus, Sequence[float]]


def write_sweep(
    runs_dir: Path,
    name: str,
    trials: Sequence[FakeTrial],
    *,
    ended: TrialStatus | None = TrialStatus.FINISHED,
    begun_in: Path | None = None,
    **config: Any,
) -> Path:
    """Write the journal of a sweep whose trials hold 2 CPUs for 10 s per report.

    Args:
        runs_dir: Folder of all results.
        name: Name of the sweep.
        trials: Final status of each trial, `running` for none, and the values it reported.
        ended: Final status of the sweep; None leaves it as a driver that died does.
        begun_in: Folder of results that the journal names; None takes `runs_dir`.
        **config: Settings that differ from `PLAN`.

    Returns:
        The folder of the sweep.
    """
    settings = load_sweep({**PLAN, "trials": max(PLAN["trials"], len(trials)), "name": name, **config})
    recorded = {**settings.model_dump(mode="json"), "runs_dir": str(begun_in or runs_dir)}
    with Journal(runs_dir / name / "journal.jsonl") as journal:
        ledger = Ledger(journal)
        ledger.sweep_started(name, recorded, {"git.revision": "abc"}, {})
        ledger.lanes_planned(lanes=1, workers=2, cpus_per_worker=1.0, gpus_per_worker=0.0)
        for number, (status, values) in enumerate(trials):
            params = {"lr": 0.001 * (number % 9 + 1) + 1e-6 * (number // 9)}
            trial = resolve_trial(settings, number, params).model_dump(mode="json")
            ledger.trial_started(number, f"tune{number}", params, trial)
            for epoch, value in enumerate(values, start=1):
                metrics = {settings.objective.metric: value, "train/loss": 1.0}
                ledger.trial_reported(number, epoch, metrics, held_s=10.0 * epoch, lane=0)
            if status is TrialStatus.PAUSED:
                ledger.trial_paused(number, len(values))
            elif status is not TrialStatus.RUNNING:
                ledger.trial_ended(number, status)
        if ended is not None:
            ledger.sweep_ended(ended, {}, [])
    return runs_dir / name
