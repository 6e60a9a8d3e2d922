"""Python API of sweeps.

    from orchestrator import load_sweep, run_sweep

    result = run_sweep(load_sweep("sweeps/digits.yaml", ["trials=12"]))
    print(result.best, result.to_pandas())
    model = result.best.load_model()

Names are imported when they are first used: Tune's trial actors import this package and must not import torch.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.config import SweepConfig, load_sweep
    from orchestrator.errors import ConfigError, SpatialSweepError
    from orchestrator.inference.load import load_model
    from orchestrator.inference.predict import predict
    from orchestrator.progress.steering_panel import steering_panel
    from orchestrator.results.replay import replay_sweep
    from orchestrator.results.stored_sweep import load_result
    from orchestrator.results.sweep_result import SweepResult, TrialResult
    from orchestrator.steering.client import (
        change_settings,
        end_sweep,
        enqueue_configuration,
        pause_trial,
        resume_trial,
        stop_trial,
    )
    from orchestrator.sweep.dry_run import dry_run
    from orchestrator.sweep.run import resume_sweep, run_sweep
    from orchestrator.verdicts.verdict import Verdict, verdict

_HOMES = {
    "ConfigError": "orchestrator.errors",
    "SpatialSweepError": "orchestrator.errors",
    "SweepConfig": "orchestrator.config",
    "SweepResult": "orchestrator.results.sweep_result",
    "TrialResult": "orchestrator.results.sweep_result",
    "Verdict": "orchestrator.verdicts.verdict",
    "change_settings": "orchestrator.steering.client",
    "dry_run": "orchestrator.sweep.dry_run",
    "end_sweep": "orchestrator.steering.client",
    "enqueue_configuration": "orchestrator.steering.client",
    "load_model": "orchestrator.inference.load",
    "load_result": "orchestrator.results.stored_sweep",
    "load_sweep": "orchestrator.config",
    "predict": "orchestrator.inference.predict",
    "pause_trial": "orchestrator.steering.client",
    "replay_sweep": "orchestrator.results.replay",
    "resume_sweep": "orchestrator.sweep.run",
    "resume_trial": "orchestrator.steering.client",
    "run_sweep": "orchestrator.sweep.run",
    "steering_panel": "orchestrator.progress.steering_panel",
    "stop_trial": "orchestrator.steering.client",
    "verdict": "orchestrator.verdicts.verdict",
}

__all__ = [
    "ConfigError",
    "SpatialSweepError",
    "SweepConfig",
    "SweepResult",
    "TrialResult",
    "Verdict",
    "change_settings",
    "dry_run",
    "end_sweep",
    "enqueue_configuration",
    "load_model",
    "load_result",
    "load_sweep",
    "pause_trial",
    "predict",
    "replay_sweep",
    "resume_sweep",
    "resume_trial",
    "run_sweep",
    "steering_panel",
    "stop_trial",
    "verdict",
]


def _require_own_neighbours() -> None:
    """Check that the import roots, which are ordinary words, are our packages and not others of the same name.

    Raises:
        ImportError: Another package of that name is found.
    """
    home = Path(__file__).resolve().parents[1]
    for name in ("cluster", "models", "search_spaces"):
        spec = importlib.util.find_spec(name)
        found = Path(spec.origin).resolve().parent if spec is not None and spec.origin else None
        if found != home / name:
            raise ImportError(
                f"SpatialSweep's package '{name}' belongs at {home / name}, but Python finds {found or 'none'}. "
                f"Rename or remove the other '{name}', or take its folder out of PYTHONPATH."
            )


_require_own_neighbours()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'orchestrator' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)
