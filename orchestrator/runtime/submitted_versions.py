"""Comparison of a job's package versions with those of the machine that submitted it."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version

SUBMITTED_WITH = "SPATIALSWEEP_SUBMITTED_WITH"
"""Environment variable with the versions of the submitting machine, as JSON."""

COMPARED = ("ray", "torch", "timm", "optuna", "mlflow", "pyarrow")


def version_report() -> list[str]:
    """Return lines for the job's log; none outside a job of `spatialsweep submit`."""
    given = os.environ.get(SUBMITTED_WITH)
    if not given:
        return []
    there: dict[str, str] = json.loads(given)
    here = {"python": platform.python_version(), **{name: _version(name) for name in COMPARED}}
    report = ["Versions:  " + ", ".join(f"{name} {number}" for name, number in here.items())]
    differing = [
        f"{name} {here[name]} (submitted with {there[name]})"
        for name in here
        if name in there and here[name] != there[name]
    ]
    if differing:
        remedy = "Results may differ; `spatialsweep submit --install` installs the same versions."
        report.append(f"Warning: this cluster has {', '.join(differing)}. {remedy}")
    return report


def _version(name: str) -> str:
    try:
        return version(name).partition("+")[0]
    except PackageNotFoundError:
        return "missing"
