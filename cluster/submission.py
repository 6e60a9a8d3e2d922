"""Submission of a sweep to a cluster: its command, its environment, and the checks of both."""

from __future__ import annotations

import contextlib
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

from cluster.package import Package
from orchestrator.config.fixed_settings import CHECKPOINT, RANDOM
from orchestrator.config.load import load_sweep, overridden
from orchestrator.config.network_files import NetworkSource, network_files_beside, read_network_files
from orchestrator.config.validation.training_rules import unused_accepted
from orchestrator.errors import ConfigError, Problem
from orchestrator.files.home_paths import expanded_path
from orchestrator.files.sqlite_files import sqlite_path
from orchestrator.runtime.submitted_versions import COMPARED, SUBMITTED_WITH
from orchestrator.uris import holds_password, without_password
from search_spaces import setting_of

# Time for a driver to write its results before Ray kills it; Ray's default is 3 s.
_STOP_WAIT_S = 120
_VARIABLE = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")
_OPTIONS = {"name": "--name", "tracking.uri": "--tracking-uri", "runs_dir": "--runs-dir"}
_ELSEWHERE = re.compile(r"[/~]|runs:/|timm:|[a-z0-9+]+://|[0-9a-f]{32}$")  # checkpoints that the cluster reaches
_RESERVED = re.compile(r"^RAY_AUTH_")


@dataclass(frozen=True)
class CheckedSweep:
    """Facts about a checked sweep that a submission needs.

    Args:
        name: Name of the sweep.
        tracking_uri: MLflow server without a password; None without an HTTP server.
        unread: Reason why the dataset could not be read on this machine; empty if it was read.
        network_files: Files of the networks that the sweep names.
        checkpoints: Relative paths of the checkpoints that trainings start from; they have to be sent with the job.
        runs_dir: Folder of all results on the cluster; None for the default.
        dataset_uri: URI of the dataset as the sweep names it; None for one with a name.
    """

    name: str
    tracking_uri: str | None
    unread: str
    network_files: tuple[NetworkSource, ...] = ()
    checkpoints: tuple[str, ...] = ()
    runs_dir: str | None = None
    dataset_uri: str | None = None


def check_sweep(
    sweep: Path,
    overrides: Sequence[str],
    values: Mapping[str, str] = MappingProxyType({}),
    *,
    resume: bool = False,
) -> CheckedSweep:
    """Check a sweep as far as possible on this machine, and that it can run in a job.

    An absolute dataset path may exist on the cluster alone; if it is missing here, the job checks it.

    Args:
        sweep: Sweep file.
        overrides: Assignments (`--set`) for the job's command line.
        values: Settings given as options, for the job's command line.
        resume: Whether the job resumes the sweep, which keeps settings without effect that it began with.

    Raises:
        ConfigError: Lists all problems: of the settings, of paths that a job would lose, of passwords that would show.
    """
    settings, _ = overridden(sweep, overrides, values)
    problems, unread = list(_shown_passwords(overrides, values)), ""
    with network_files_beside(sweep.parent):
        network_files, _ = read_network_files(settings)
        try:
            with unused_accepted() if resume else contextlib.nullcontext():
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
    return CheckedSweep(
        settings["name"],
        without_password(server) if server.startswith("http") else None,
        unread,
        network_files.sources,
        tuple(dict.fromkeys(_relative_checkpoints(settings))),
        settings.get("runs_dir"),
        _setting(settings, "dataset", "uri"),
    )


def require_checkpoints(names: Iterable[str], package: Package, folder: Path) -> None:
    """Check that the checkpoints that trainings start from are sent with the job.

    Args:
        names: Paths relative to the working directory.
        package: Files to send.
        folder: Working directory.

    Raises:
        ConfigError: One is not among the files; it is outside of the folder, ignored, or there is none.
    """
    missing = [name for name in names if os.path.normpath(name) not in package.files]
    message = (
        f"is not among the files sent with the job, those of {folder} without data, runs and what .gitignore and "
        ".rayignore name. Name a path from the root on storage that the cluster reaches, or a URI such as "
        "s3://bucket/weights.pth"
    )
    if missing:
        raise ConfigError(Problem(CHECKPOINT, f"'{name}' {message}") for name in missing)


def _relative_checkpoints(settings: Mapping[str, Any]) -> Iterator[str]:
    """Yield the relative paths of checkpoints in the settings of a sweep, as written."""
    search = settings.get("search")
    written: list[Any] = [_setting(settings, "model", CHECKPOINT)]
    for name, domain in search.items() if isinstance(search, Mapping) else ():
        if setting_of(str(name)) == CHECKPOINT:
            values = [domain.get("choices"), domain.get("value")] if isinstance(domain, Mapping) else [domain]
            written += [each for value in values for each in (value if isinstance(value, list | tuple) else [value])]
    for checkpoint in written:
        if isinstance(checkpoint, str) and checkpoint != RANDOM and not _ELSEWHERE.match(checkpoint):
            yield checkpoint


def _setting(settings: Mapping[str, Any], section: str, name: str) -> str | None:
    found = settings.get(section)
    value = found.get(name) if isinstance(found, Mapping) else None
    return value if isinstance(value, str) else None


def _lies_elsewhere(uri: str | None) -> bool:
    return uri is not None and uri.startswith(("/", "~")) and not expanded_path(uri).exists()


def _local_places(settings: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield relative paths: a job runs in a copy of the working directory that Ray deletes afterwards."""
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
    for where, value in assigned:
        if where.startswith("--set notify") and "://" in value:
            yield Problem(
                where,
                "the address of a webhook here would stand in the job's command line, for all to see. Write "
                "--set notify=$NAME and pass the variable on with --env NAME",
            )
    for where, value in [*assigned, *((_OPTIONS[setting], value) for setting, value in values.items())]:
        if holds_password(value):
            yield Problem(
                where,
                "a password here would stand in the job's command line, for all to see. Leave it out of the address "
                "and pass it on with --env: MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or PGPASSWORD",
            )


def passed_on(names: Iterable[str]) -> dict[str, str]:
    """Return the environment variables to pass to the job.

    Raises:
        ConfigError: A name is not set here, or is not the name of a variable.
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
    """Return the command of the job; everyone who sees the cluster's jobs can read it."""
    command = ["python", "-m", "orchestrator", "run", sweep]
    for assignment in overrides:
        command += ["--set", assignment]
    command += [f"{_OPTIONS[setting]}={value}" for setting, value in values.items()]
    command += ["--resume"] * resume + ["--allow-changed"] * allow_changed
    return shlex.join(command)


def runtime_env(package: Path, variables: dict[str, str], *, install: bool, constrained: bool) -> dict[str, Any]:
    """Return Ray's runtime environment of the job.

    Args:
        package: Zip file with the job's files.
        variables: Environment variables of the job.
        install: Install this machine's package versions on the cluster.
        constrained: The package holds a `constraints.txt` that pins their dependencies.
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
    """Return SpatialSweep's requirements at this machine's versions, without Ray, which belongs to the cluster.

    Raises:
        ConfigError: SpatialSweep is not installed here, so that its requirements are unknown.
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
    """Return a package's version without the local part (`+cpu`), which no index knows."""
    return version(name).partition("+")[0]
