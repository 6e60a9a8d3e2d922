"""Versions of Python and Ray: every module can be imported on each, and what is said of them is the same everywhere."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.runtime.ray_private.supported import TESTED

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("cluster", "models", "orchestrator", "search_spaces")


def modules() -> list[str]:
    """Return the names of all modules of the packages, without those that are run by their name.

    Those of kernels for GPUs need Triton, which is not on every platform.
    """
    found = [
        module.name
        for package in PACKAGES
        for module in pkgutil.walk_packages([str(ROOT / package)], prefix=f"{package}.", onerror=lambda name: None)
    ]
    kernels = "models.local_attention.gpu" if importlib.util.find_spec("triton") is None else " "
    return sorted(name for name in found if not name.endswith("__main__") and not name.startswith(kernels))


def test_every_module_can_be_imported() -> None:
    names = modules()
    assert len(names) > 400
    for name in names:
        importlib.import_module(name)


def test_this_python_is_one_of_those_that_the_package_names() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    named = re.findall(r'"Programming Language :: Python :: (\d+\.\d+)"', text)
    assert ".".join(map(str, sys.version_info[:2])) in named
    (least,) = re.findall(r'requires-python = ">=(\d+\.\d+)"', text)
    assert least == named[0]


@pytest.mark.parametrize("file", ["README.md", "CONTRIBUTING.md"])
def test_the_documents_name_the_same_versions(file: str) -> None:
    text = (ROOT / file).read_text()
    named = re.findall(r'"Programming Language :: Python :: (\d+\.\d+)"', (ROOT / "pyproject.toml").read_text())
    script = (ROOT / ".ci" / "versions").read_text()
    assert f"Python {named[0]} to {named[-1]}" in text
    assert f"Ray {TESTED[0][0]}.{TESTED[0][1]} and {TESTED[-1][0]}.{TESTED[-1][1]}" in text
    assert f"PYTHON={named[-1]} " in script
    assert f"RAY={TESTED[0][0]}.{TESTED[0][1]}." in script


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["biuld"], "got 'biuld'; give nothing, build, or run COMMAND"),
        (["build", "run"], "got 'run' after 'build'"),
        (["run"], "run: give a COMMAND"),
    ],
)
def test_a_mistyped_argument_is_refused_before_anything_is_built(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "VENV": str(tmp_path)}
    done = subprocess.run(
        [str(ROOT / ".ci" / "versions"), *arguments], capture_output=True, text=True, check=False, env=environment
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"versions: {message}\n")
    assert list(tmp_path.iterdir()) == []
