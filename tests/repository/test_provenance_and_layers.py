"""Imports at run time, public names, and the provenance stored with a sweep."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import orchestrator
from orchestrator import config
from orchestrator.records.provenance import facts, package_version

ROOT = Path(__file__).parents[2]


def loaded_by(statement: str, *packages: str) -> list[str]:
    """Return the packages that a new interpreter has loaded after a statement."""
    code = f"import sys\n{statement}\nprint([name for name in {packages!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return list(eval(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "statement",
    [
        "import orchestrator",
        "import orchestrator.lanes.trial_client",
        "import orchestrator.lanes.hub.hub",
        "from orchestrator import ConfigError, SpatialSweepError",
        "import orchestrator.records.ledger",
        "import search_spaces",
    ],
)
def test_imports_of_trial_actors_do_not_load_torch(statement: str) -> None:
    assert loaded_by(statement, "torch", "timm", "models", "mlflow") == []


def test_the_training_loop_needs_neither_ray_nor_mlflow() -> None:
    statement = "import orchestrator.training.trial, torch"
    assert loaded_by(statement, "ray", "mlflow", "optuna", "torch") == ["torch"]


def test_the_command_answers_help_and_version_without_the_heavy_packages() -> None:
    heavy = ("torch", "ray", "mlflow", "optuna", "numpy", "pydantic", "yaml")
    assert loaded_by("import orchestrator.cli.main", *heavy) == []


@pytest.mark.parametrize(
    ("words", "unused"),
    [
        pytest.param(["models", "--json"], ("models", "torch", "timm", "ray", "mlflow"), id="models"),
        pytest.param(
            ["run", "sweeps/digits.yaml", "--dry-run", "--json"],
            ("torch._dynamo", "ray", "mlflow", "alembic", "sqlalchemy.orm", "sklearn", "scipy", "pandas"),
            id="dry run",
        ),
    ],
)
def test_a_command_loads_no_package_that_it_does_not_use(words: list[str], unused: tuple[str, ...]) -> None:
    statement = (
        "from typer.testing import CliRunner\nfrom orchestrator.cli.main import app\n"
        f"done = CliRunner().invoke(app, {words})\nassert done.exit_code == 0, done.output\nimport json\n"
        "assert json.loads(done.stdout)"
    )
    assert loaded_by(statement, *unused) == []


def test_packages_are_absent_only_within_the_context_and_only_unless_they_are_loaded() -> None:
    code = (
        "import json, sys\nfrom orchestrator.quick_imports import without_packages\n"
        "with without_packages('json', 'wave'):\n    import json\n"
        "    try:\n        import wave\n    except ImportError:\n        print('absent')\n"
        "import wave; print(wave.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == ["absent", "wave"]


def test_every_public_name_exists() -> None:
    assert sorted(orchestrator.__all__) == orchestrator.__all__ == sorted(orchestrator._HOMES)
    for name in orchestrator.__all__:
        assert getattr(orchestrator, name).__name__ == name
    with pytest.raises(AttributeError, match="module 'orchestrator' has no attribute 'run_swep'"):
        orchestrator.run_swep  # noqa: B018


def test_every_name_of_the_configuration_exists() -> None:
    assert sorted(config.__all__) == sorted(config._HOMES)
    for name in config.__all__:
        assert getattr(config, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'load_swep'"):
        config.load_swep  # noqa: B018


def test_facts_name_the_versions_that_are_installed() -> None:
    found = facts()
    assert found["version.torch"] == importlib.metadata.version("torch")
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["spatialsweep.version"] == package_version() == importlib.metadata.version("spatialsweep")
    assert {f"version.{name}" for name in ("ray", "timm", "optuna", "mlflow", "pyarrow", "numpy")} <= set(found)


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_revision_marks_files_that_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    assert "git.revision" not in facts()

    def git(*arguments: str) -> str:
        who = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
        return subprocess.run(["git", *who, *arguments], check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "-qm", "one")
    revision = git("rev-parse", "--short=12", "HEAD")
    assert facts()["git.revision"] == revision
    (tmp_path / "file").write_text("two")
    assert facts()["git.revision"] == f"{revision}+"


def test_another_package_of_the_same_name_is_refused_by_name_and_place(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").touch()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = subprocess.run(
        [sys.executable, "-c", "import orchestrator"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert f"'models' belongs at {ROOT / 'models'}, but Python finds {tmp_path / 'models'}" in done.stderr
