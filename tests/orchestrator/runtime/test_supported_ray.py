"""Check of the names of Ray that `orchestrator.runtime.ray_private` uses."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest
import ray

from orchestrator.errors import UnsupportedRayError
from orchestrator.runtime.ray_private.supported import TESTED, missing_names, require_supported

INSTALLED = Path(ray.__file__).parent
PYPROJECT = Path(__file__).resolve().parents[3] / "pyproject.toml"
SOURCE = """
import os
from elsewhere import thing as renamed
LIMIT: int = 3
try:
    import fast as chosen
except ImportError:
    chosen = None
class Group(Base):
    kind = 1
    def __init__(self):
        self._event = None
    def start(self, workers, sync_actor): ...
    async def stop(self): ...
def run(rank, fn): ...
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Folder of a package `ray` with one module of known content."""
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "__init__.py").write_text(SOURCE)
    (tmp_path / "inner" / "part.py").write_text("")
    return tmp_path


def test_the_installed_ray_has_every_name() -> None:
    assert missing_names(INSTALLED) == []
    installed = tuple(int(part) for part in ray.__version__.split(".")[:2])
    assert installed in TESTED


def test_the_package_admits_the_tested_versions_and_the_next() -> None:
    (found,) = re.findall(r'"ray\[default,train,tune\]>=(\d+)\.(\d+),<(\d+)\.(\d+)"', PYPROJECT.read_text())
    low, high = (int(found[0]), int(found[1])), (int(found[2]), int(found[3]))
    assert low == TESTED[0]
    assert high == (TESTED[-1][0], TESTED[-1][1] + 2)


@pytest.mark.parametrize(
    "name",
    [
        "renamed",
        "LIMIT",
        "chosen",
        "part",
        "os",
        "Group.kind",
        "Group._event",
        "Group.stop",
        "Group.start(workers; sync_actor)",
        "run(rank; fn)",
        "__file__",
    ],
)
def test_a_name_is_found(folder: Path, name: str) -> None:
    assert missing_names(folder, [("ray.inner", name)]) == []


@pytest.mark.parametrize(
    ("module", "name", "shown"),
    [
        ("ray.inner", "thing", "ray.inner.thing"),
        ("ray.inner", "Group.gone", "ray.inner.Group.gone"),
        ("ray.inner", "start", "ray.inner.start"),
        ("ray.inner", "Group.start(workers)", "ray.inner.Group.start(workers)"),
        ("ray.inner", "run(fn; rank)", "ray.inner.run(fn, rank)"),
        ("ray.gone", "anything", "ray.gone.anything"),
    ],
)
def test_a_name_that_is_not_there_is_listed(folder: Path, module: str, name: str, shown: str) -> None:
    assert missing_names(folder, [(module, name)]) == [shown]


def test_a_version_without_our_names_is_refused_by_name(folder: Path) -> None:
    with pytest.raises(UnsupportedRayError) as caught:
        require_supported("2.99.1", folder)
    text = str(caught.value)
    assert text.startswith("Ray 2.99.1 lacks names that SpatialSweep uses: ray._private.")
    assert "ray.tune.execution.class_cache._ActorClassCache.get(trainable_cls)" in text
    assert text.endswith("tested with Ray 2.59 and 2.60: pip install 'ray[default,train,tune]>=2.59,<2.61'")


@pytest.mark.parametrize(("version", "warnings"), [("2.60.3", 0), ("2.59.0", 0), ("2.61.0", 1), ("3.0.0.dev0", 1)])
def test_a_version_with_our_names_is_accepted(
    version: str, warnings: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr("orchestrator.runtime.ray_private.supported.missing_names", lambda _: seen.append(1) or [])
    with caplog.at_level(logging.WARNING):
        require_supported(version, INSTALLED)
    assert (len(caplog.records), len(seen)) == (warnings, warnings)
