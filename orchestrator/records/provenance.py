"""The means to repeat a result: versions, code revision and host, stored as tags with every sweep."""

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
    """The version of SpatialSweep; that of the source tree when it is not installed."""
    try:
        return version("spatialsweep")
    except PackageNotFoundError:
        return "0+unknown"


def facts() -> dict[str, str]:
    """Tags of a sweep: `spatialsweep.version`, `git.revision`, `python`, and a version per package."""
    found = {"spatialsweep.version": package_version(), "python": platform.python_version()}
    found |= {f"version.{name}": version(name) for name in _PACKAGES}
    revision = _git_revision()
    return found | {"git.revision": revision} if revision else found


def git_diff() -> str:
    """How the files of the current folder's checkout differ from its commit; empty where they do not, or are in none.

    New files count once git has been told of them (`git add`); beyond 1 MB the difference is cut, and says so.
    """
    found = _git("diff", "HEAD", "--no-color", "--no-ext-diff") or ""
    if len(found) > _DIFF_LENGTH:
        return f"{found[:_DIFF_LENGTH]}\n... cut after {_DIFF_LENGTH} characters of {len(found)}\n"
    return found


def code_fingerprint() -> str:
    """Hash of the sources of all our packages, whether or not they stand in a checkout."""
    home = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256()
    for package in _OWN_PACKAGES:
        for path in sorted((home / package).rglob("*")):
            if path.suffix in _SOURCES:
                digest.update(f"{path.relative_to(home)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _git_revision() -> str | None:
    """The commit of the current folder, marked `+` when files differ from it; None outside a checkout."""
    revision = (_git("rev-parse", "--short=12", "HEAD") or "").strip()
    return f"{revision}{'+' if _git('status', '--porcelain') else ''}" if revision else None


def _git(*arguments: str) -> str | None:
    """What git says of the current folder; None without git, outside a checkout, or where it fails."""
    git = shutil.which("git")
    if git is None:
        return None
    command = [git, "-C", str(Path.cwd()), *arguments]
    done = subprocess.run(command, capture_output=True, check=False, timeout=_GIT_S)  # noqa: S603
    return done.stdout.decode(errors="replace") if done.returncode == 0 else None
