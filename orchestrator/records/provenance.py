"""Provenance of a result: versions of packages and revision of the code, stored as tags with every sweep."""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = ("ray", "torch", "timm", "optuna", "mlflow", "pyarrow", "numpy")
_OWN_PACKAGES = ("models", "search_spaces", "orchestrator")
_SOURCES = (".py", ".cpp", ".h")
_GIT_S = 10
_DIFF_LENGTH = 1_000_000


def package_version() -> str:
    """Return the version of SpatialSweep, `0+unknown` when it is not installed."""
    try:
        return version("spatialsweep")
    except PackageNotFoundError:
        return "0+unknown"


def facts() -> dict[str, str]:
    """Collect the tags of a sweep: `spatialsweep.version`, `git.revision`, `python`, and a version per package."""
    found = {"spatialsweep.version": package_version(), "python": platform.python_version()}
    found |= {f"version.{name}": version(name) for name in _PACKAGES}
    revision = _git_revision()
    return found | {"git.revision": revision} if revision else found


def git_diff() -> str:
    """Return the diff between the checkout of the current folder and its commit; empty without one.

    New files are included once they are added (`git add`); a diff above 1 MB is cut, with a note at its end.
    """
    found = _git("diff", "HEAD", "--no-color", "--no-ext-diff") or ""
    if len(found) > _DIFF_LENGTH:
        return f"{found[:_DIFF_LENGTH]}\n... cut after {_DIFF_LENGTH} characters of {len(found)}\n"
    return found


def code_fingerprint() -> str:
    """Return a hash of the sources of all our packages, which also works outside a checkout."""
    home = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256()
    for package in _OWN_PACKAGES:
        for path in sorted((home / package).rglob("*")):
            if path.suffix in _SOURCES:
                digest.update(f"{path.relative_to(home)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _git_revision() -> str | None:
    """Return the commit of the current folder, marked `+` when files differ from it; None outside a checkout."""
    revision = (_git("rev-parse", "--short=12", "HEAD") or "").strip()
    return f"{revision}{'+' if _git('status', '--porcelain') else ''}" if revision else None


def _git(*arguments: str) -> str | None:
    """Run git in the current folder and return its output; None without git, outside a checkout, or when it fails."""
    git = shutil.which("git")
    if git is None:
        return None
    command = [git, "-C", str(Path.cwd()), *arguments]
    done = subprocess.run(command, capture_output=True, check=False, timeout=_GIT_S)  # noqa: S603
    return done.stdout.decode(errors="replace") if done.returncode == 0 else None
