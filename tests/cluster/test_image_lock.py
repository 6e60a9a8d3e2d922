"""Requirements of the image: hashed files of the tested versions."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
LOCK = (ROOT / "cluster" / "requirements.lock").read_text()
PIN = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;]+)(?P<hashes>( \\\n    --hash=sha256:[0-9a-f]{64})+)\n")


def pinned(text: str) -> dict[str, str]:
    """Return the version of each package of a constraints file."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


LOCKED = {canonicalize_name(found["name"]): found["version"] for found in PIN.finditer(LOCK)}


def test_the_lock_is_nothing_but_pins_with_hashes() -> None:
    rest = PIN.sub("", LOCK)
    assert [line for line in rest.splitlines() if not line.startswith("#")] == []
    assert "://" not in LOCK
    assert "index-url" not in LOCK.replace("--no-emit-index-url", "")


def test_the_lock_has_the_versions_that_are_tested() -> None:
    constraints = pinned((ROOT / "constraints.txt").read_text())
    assert {name: constraints.get(name) for name in LOCKED} == LOCKED


def test_the_lock_holds_all_that_the_image_needs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["mlflow-server"]]
    for text in asked:
        requirement = Requirement(text)
        assert requirement.specifier.contains(LOCKED[canonicalize_name(requirement.name)]), text
    (build,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert Requirement(build).specifier.contains(LOCKED["setuptools"])


def test_the_image_installs_nothing_else_and_runs_as_a_user() -> None:
    text = (ROOT / "cluster" / "Containerfile").read_text()
    installs = re.findall(r"pip install (.*)$", text.replace("\\\n", " "), re.M)
    assert len(installs) == 2
    for options in installs:
        assert "--no-deps" in options
        assert "--require-hashes" in options or "--no-build-isolation . " in options
    assert re.findall(r"^USER (\w+)$", text, re.M)[-1] == "ray"
