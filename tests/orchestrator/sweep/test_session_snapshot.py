"""Snapshot files of a session."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from orchestrator.config import SweepConfig, load_sweep
from orchestrator.data import describe_dataset, locate_dataset
from orchestrator.records.settings.stored_config import complete_settings, non_default_settings
from orchestrator.sweep.session_snapshot import without_secrets, write_session_snapshot

SECRET = "drowssap-of-somebody"
FILE = f"""\
name: s   # a comment stays
dataset: {{name: digits}}
model: {{name: conv_resnet26_small}}
search: {{lr: {{type: float, low: 0.001, high: 0.01}}}}
tracking: {{uri: "postgresql://me:{SECRET}@db.example/mlflow"}}
"""


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, SweepConfig]:
    """Return a sweep file with a password and its configuration, outside of a checkout."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweep.yaml").write_text(FILE)
    return tmp_path / "sweep.yaml", load_sweep(tmp_path / "sweep.yaml", ["trials=7"])


def snapshot(folder: Path, config: SweepConfig, manifest: str = "{}", sweep_file: Path | None = None) -> list[Path]:
    return write_session_snapshot(
        folder,
        complete_settings(config),
        manifest,
        non_default=non_default_settings(config),
        sweep_file=sweep_file,
    )


def test_a_snapshot_has_the_settings_without_passwords(sweep: tuple[Path, SweepConfig], tmp_path: Path) -> None:
    file, config = sweep
    _, manifest = describe_dataset(locate_dataset("digits", None, tmp_path / "datasets"))
    paths = {path.name: path.read_text() for path in snapshot(tmp_path / "001", config, manifest, file)}
    assert sorted(paths) == ["config.yaml", "dataset.json", "packages.txt", "sweep.yaml"]
    assert paths["sweep.yaml"] == FILE.replace(SECRET, "***")
    assert yaml.safe_load(paths["config.yaml"])["trials"] == 7
    assert "torch==" in paths["packages.txt"]
    assert json.loads(paths["dataset.json"])["splits"]["test"]["images"] == 360
    assert SECRET not in "".join(paths.values())


def test_without_a_file_the_snapshot_has_the_non_default_settings(
    sweep: tuple[Path, SweepConfig], tmp_path: Path
) -> None:
    paths = {path.name: path for path in snapshot(tmp_path / "001", sweep[1])}
    assert yaml.safe_load(paths["sweep.yaml"].read_text())["trials"] == 7
    assert SECRET not in paths["sweep.yaml"].read_text()


def test_the_non_default_settings_are_those_of_the_sweep_when_they_are_read_again(tmp_path: Path) -> None:
    config = SweepConfig(
        name="ranges",
        dataset={"name": "digits"},
        model={"name": "sb_resnet29_cifar"},
        search={
            "lr": {"type": "float", "low": 1e-3, "high": 1e-2, "log": True},
            "bias_channels": {"type": "int", "low": 1, "high": 6, "when": {"optimizer": "adamw"}},
            "optimizer": ["sgd", "adamw"],
        },
    )
    (path,) = (path for path in snapshot(tmp_path / "001", config) if path.name == "sweep.yaml")
    assert load_sweep(path) == config


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_git_diff_can_be_applied(sweep: tuple[Path, SweepConfig], tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        who = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
        return subprocess.run(["git", *who, *arguments], check=True, capture_output=True, text=True).stdout

    git("init", "-q")
    (tmp_path / "code.py").write_text("one\n\ntwo\n \n")
    git("add", "code.py")
    git("commit", "-qm", "one")
    (tmp_path / "code.py").write_text("one\n\nthree\n \n")
    (diff,) = [path for path in snapshot(tmp_path / "001", sweep[1]) if path.name == "git.diff"]
    git("checkout", "-q", "code.py")
    git("apply", str(diff))
    assert (tmp_path / "code.py").read_text() == "one\n\nthree\n \n"


def test_secrets_of_addresses_and_of_the_environment_become_stars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
    assert without_secrets(f"a {SECRET} b") == "a *** b"
    assert without_secrets("http://me:pw@host/x?password=pw&a=1") == "http://me:***@host/x?password=***&a=1"
    assert without_secrets("s3://bucket/a:b/c@d, at 12:30@noon") == "s3://bucket/a:b/c@d, at 12:30@noon"
