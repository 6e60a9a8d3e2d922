"""Default folder of results."""

from __future__ import annotations

from pathlib import Path

import pytest
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR

from orchestrator.files.runs_dir import resolve_runs_dir


def test_default_folder_is_runs_or_the_home_folder_in_a_ray_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.delenv(RAY_JOB_CONFIG_JSON_ENV_VAR, raising=False)
    assert resolve_runs_dir(None) == tmp_path / "runs"
    monkeypatch.setenv(RAY_JOB_CONFIG_JSON_ENV_VAR, "{}")
    assert resolve_runs_dir(None) == Path("/home/somebody/spatialsweep/runs")
    assert resolve_runs_dir("~/elsewhere") == Path("/home/somebody/elsewhere")
