"""What the README and the docs say is true: its example runs, its sweep file loads, its links lead somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from orchestrator import load_sweep

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "benchmarks").rglob("*.md")),
]


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", README, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.mark.ray
@pytest.mark.slow
def test_the_python_example_runs(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", block("python")],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"best val/top1 0\.\d+ with \('0', '1', .*'9'\)", done.stdout)
    assert (tmp_path / "runs" / "bias" / "trials.parquet").exists()


def test_the_sweep_file_shown_is_valid_and_matches_the_demo() -> None:
    shown = load_sweep(yaml.safe_load(block("yaml").replace("1e-3", "1.0e-3").replace("1e-2", "1.0e-2")))
    demo = load_sweep(ROOT / "sweeps" / "digits.yaml")
    assert shown.trials == demo.trials
    assert shown.trial_scheduler == demo.trial_scheduler
    assert all(demo.search[name] == domain for name, domain in shown.search.items())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []
