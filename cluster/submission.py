"""What is sent to a cluster to run a sweep there: the command, the environment, and what must not be in either."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from types import MappingProxyType
from typing import Any

from orchestrator.cli.submitted_versions import COMPARED, SUBMITTED_WITH
from orchestrator.config.load import load_sweep, overridden
from orchestrator.errors import ConfigError, Problem
from orchestrator.files.home_paths import expanded_path
from orchestrator.files.sqlite_files import sqlite_path
from orchestrator.uris import holds_password, without_password

# How long Ray lets a driver write its results down before it kills it; its own default is 3 s.
_STOP_WAIT_S = 120
_VARIABLE = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")
_OPTIONS = {"name": "--name", "tracking.uri": "--tracking-uri", "runs_dir": "--runs-dir"}
_RESERVED = re.compile(r"^RAY_AUTH_")


@dataclass(frozen=True)
class CheckedSweep:
    """What a submission has to know of a sweep.

    Args:
        name: Of the sweep.
        tracking_uri: Its MLflow server without a password; None where it has none that answers over HTTP.
        unread: Why its images could not be looked at here; empty where they were.
    """

    name: str
    tracking_uri: str | None
    unread: str


def check_sweep(
    sweep: Path, overrides: Sequence[str], values: Mapping[str, str] = MappingProxyType({})
) -> CheckedSweep:
    """Checks all of a sweep that can be checked here, and that it can run in a job.

    Images at a path from the root may be the cluster's alone: where there are none here, the job looks at them.

    Args:
        sweep: Its file.
        overrides: Assignments that will be part of the job's command line.
        values: Settings given as options, which will be part of it too.

    Raises:
        ConfigError: With every fault: of the sweep, of what would be lost in a job, of passwords that would be seen.
    """
    settings, _ = overridden(sweep, overrides, values)
    problems, unread = list(_shown_passwords(overrides, values)), ""
    try:
        load_sweep(sweep, overrides, values=values)
    except ConfigError as error:
        problems = [*error.problems, *problems]
    if _lies_elsewhere(_setting(settings, "dataset", "uri")):
        unread = next((problem.message for problem in problems if problem.where == "dataset.uri"), "")
        problems = [problem for problem in problems if problem.where != "dataset.uri"]
    lost = list(_local_places(settings))
    problems = [problem for problem in problems if problem.where not in {found.where for found in lost}] + lost
    if problems:
        raise ConfigError(problems, sweep.name)
    server = _setting(settings, "tracking", "uri") or ""
    return CheckedSweep(settings["name"], without_password(server) if server.startswith("http") else None, unread)


def _setting(settings: Mapping[str, Any], section: str, name: str) -> str | None:
    found = settings.get(section)
    value = found.get(name) if isinstance(found, Mapping) else None
    return value if isinstance(value, str) else None


def _lies_elsewhere(uri: str | None) -> bool:
    return uri is not None and uri.startswith(("/", "~")) and not expanded_path(uri).exists()


def _local_places(settings: Mapping[str, Any]) -> Iterator[Problem]:
    """A job runs in a copy of the working directory that Ray deletes after it."""
    remedy = "in a job it would lie in a folder that Ray deletes. Name a path from the root, on storage all nodes reach"
    runs_dir, images = settings.get("runs_dir"), _setting(settings, "dataset", "uri")
    if isinstance(runs_dir, str) and not runs_dir.startswith(("/", "~")):
        yield Problem("runs_dir", f"got '{runs_dir}'; {remedy}")
    if images is not None and "://" not in images and not images.startswith(("/", "~")):
        yield Problem("dataset.uri", f"got '{images}'; {remedy}, or an object store")
    for section in ("tracking", "storage"):
        database = _setting(settings, section, "uri")
        path = None if database is None else sqlite_path(database)
        if path is not None and not path.is_absolute():
            yield Problem(f"{section}.uri", f"got '{database}'; {remedy}, or a server")


def _shown_passwords(overrides: Sequence[str], values: Mapping[str, str]) -> Iterator[Problem]:
    assigned = [(f"--set {key}", value) for key, _, value in (text.partition("=") for text in overrides)]
    for where, value in [*assigned, *((_OPTIONS[setting], value) for setting, value in values.items())]:
        if holds_password(value):
            yield Problem(
                where,
                "a password here would stand in the job's command line, for all to see. Leave it out of the address "
                "and pass it on with --env: MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or PGPASSWORD",
            )


def passed_on(names: Iterable[str]) -> dict[str, str]:
    """The variables of this environment that the job is to have.

    Raises:
        ConfigError: One is not set here, or is no name of a variable.
    """
    problems, found = [], {}
    for name in names:
        if not _VARIABLE.match(name):
            shown = name.partition("=")[0]
            message = "takes the name of a variable, whose value is taken from here and not shown. Use"
            problems.append(Problem("--env", f"{message} --env {shown}"))
        elif _RESERVED.match(name):
            problems.append(Problem("--env", f"{name} is the cluster's own; the job has it already. Leave it out"))
        elif name not in os.environ:
            problems.append(Problem("--env", f"{name} is not set here. Export it first"))
        else:
            found[name] = os.environ[name]
    if problems:
        raise ConfigError(problems)
    return found


def entrypoint(
    sweep: str,
    overrides: Sequence[str],
    values: Mapping[str, str] = MappingProxyType({}),
    *,
    resume: bool,
    allow_changed: bool,
) -> str:
    """The job's command, which everyone who sees the cluster's jobs can read."""
    command = ["python", "-m", "orchestrator", "run", sweep]
    for assignment in overrides:
        command += ["--set", assignment]
    command += [f"{_OPTIONS[setting]}={value}" for setting, value in values.items()]
    command += ["--resume"] * resume + ["--allow-changed"] * allow_changed
    return shlex.join(command)


def runtime_env(package: Path, variables: dict[str, str], *, install: bool, constrained: bool) -> dict[str, Any]:
    """Ray's description of what the job runs in.

    Args:
        package: A zip file.
        variables: Environment, as `passed_on` found it.
        install: Whether the cluster's own packages are to be brought to the versions of this machine.
        constrained: Whether the package holds a `constraints.txt` that fixes what those need.
    """
    versions = {name: _version(name) for name in COMPARED}
    wanted: dict[str, Any] = {
        "working_dir": str(package),
        "env_vars": {
            **variables,
            SUBMITTED_WITH: json.dumps({"python": platform.python_version(), **versions}),
            "RAY_JOB_STOP_WAIT_TIME_S": str(_STOP_WAIT_S),
        },
    }
    if install:
        fixed = ["--constraint ${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}/constraints.txt"] if constrained else []
        wanted["pip"] = {"packages": [*fixed, *pinned_requirements()], "pip_check": False}
        wanted["config"] = {"setup_timeout_seconds": 3600}  # torch for GPUs weighs gigabytes
    return wanted


def pinned_requirements() -> list[str]:
    """What SpatialSweep needs, at the versions of this machine; Ray is the cluster's own and must stay.

    Raises:
        ConfigError: SpatialSweep is not installed here, so nobody knows what it needs.
    """
    try:
        needed = requires("spatialsweep") or []
    except PackageNotFoundError:
        raise ConfigError(
            [Problem("--install", "SpatialSweep is not installed here. Run `make setup`, or leave it out")]
        ) from None
    names = [re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0] for line in needed if "extra ==" not in line]
    return sorted(f"{name}=={_version(name)}" for name in names if name != "ray")


def _version(name: str) -> str:
    """Of an installed package, without the local part (`+cpu`) that an index does not know."""
    return version(name).partition("+")[0]
