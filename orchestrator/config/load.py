"""Loading of a sweep file, overlaid with `--set` assignments and the values of options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from orchestrator.config.network_files import network_files_beside
from orchestrator.config.settings_text import parse_yaml, read_text
from orchestrator.config.sweep import SweepConfig
from orchestrator.config.validation.check import section_problems
from orchestrator.config.validation.plain_data import plain_data_problems, shortened, shown
from orchestrator.errors import ConfigError, Problem

_NO_VALUES: Mapping[str, Any] = MappingProxyType({})
_MOST_NEIGHBOURS = 20


def load_sweep(
    source: str | Path | Mapping[str, Any],
    overrides: Sequence[str] = (),
    *,
    values: Mapping[str, Any] = _NO_VALUES,
    label: str | None = None,
) -> SweepConfig:
    """Build the configuration of a sweep and check all of it.

    Args:
        source: Path of a YAML file, or its content as a mapping.
        overrides: Assignments such as `trials=20` or `search.lr.low=1e-3`, read as YAML, applied in order.
        values: Values by dotted setting, such as `{"runs_dir": "exp #2"}`, not parsed, which override the assignments.
        label: Name of the source in errors; None takes the name of the file.

    Raises:
        ConfigError: The file cannot be read, or at least one setting is wrong; every problem is listed.
    """
    label = label or (None if isinstance(source, Mapping) else Path(source).name)
    if not isinstance(source, Mapping):
        with network_files_beside(Path(source).parent):
            return _loaded(source, overrides, values, label)
    return _loaded(source, overrides, values, label)


def _loaded(
    source: str | Path | Mapping[str, Any], overrides: Sequence[str], values: Mapping[str, Any], label: str | None
) -> SweepConfig:
    raw, problems = overridden(source, overrides, values)
    try:
        if problems:
            raise ConfigError([*problems, *_faults(raw)])
        return _checked(raw)
    except ConfigError as error:
        raise (error.with_source(label) if label else error) from None


def overridden(
    source: str | Path | Mapping[str, Any], overrides: Sequence[str] = (), values: Mapping[str, Any] = _NO_VALUES
) -> tuple[dict[str, Any], list[Problem]]:
    """Return the unchecked settings of a sweep with assignments and values applied, and the faulty assignments.

    Raises:
        ConfigError: The file cannot be read.
    """
    raw = dict(source) if isinstance(source, Mapping) else read_settings(Path(source))
    problems = []
    for assignment in overrides:
        try:
            raw = _assign(raw, *_parsed(assignment))
        except ValueError as error:
            problems.append(Problem(f"--set {shortened(assignment)}", str(error)))
    for setting, value in values.items():
        try:
            raw = _assign(raw, setting.split("."), value)
        except ValueError as error:
            problems.append(Problem(setting, str(error)))
    return raw, problems


def has_plain_faults(source: Path, overrides: Sequence[str], values: Mapping[str, Any]) -> bool:
    """Return whether a sweep file has faults that show without what the full check imports, which takes seconds.

    Args:
        source: Path of the file.
        overrides: Assignments, as for `load_sweep`.
        values: Values of settings, as for `load_sweep`.
    """
    try:
        raw, problems = overridden(source, overrides, values)
    except ConfigError:
        return True
    if problems or plain_data_problems(raw):
        return True
    # What is expanded or completed before the check is left out.
    left_out = {"strategy", "space", *(["search"] if "space" in raw else [])}
    plain = {name: content for name, content in raw.items() if content is not None and name not in left_out}
    return bool(section_problems(plain, SweepConfig.model_fields))


def _checked(raw: Mapping[Any, Any]) -> SweepConfig:
    """Build the configuration; names that are not texts, which Python rejects as arguments, are reported first."""
    if not all(isinstance(name, str) for name in raw):
        raise ConfigError(plain_data_problems(raw))
    return SweepConfig(**raw)


def _faults(raw: Mapping[str, Any]) -> Sequence[Problem]:
    try:
        _checked(raw)
    except ConfigError as error:
        return error.problems
    return ()


def read_settings(path: Path) -> dict[str, Any]:
    """Return the unchecked content of a settings file.

    Raises:
        ConfigError: The file is missing, not a regular file, or not a YAML mapping.
    """
    try:
        text = read_text(path)
    except FileNotFoundError:
        raise ConfigError([Problem(str(path), f"no such file. {_neighbours(path)}")]) from None
    except OSError as error:
        raise ConfigError([Problem(str(path), f"cannot be read: {error.strerror}")]) from None
    except ValueError as error:
        raise ConfigError([Problem(str(path), str(error))]) from None
    try:
        content = parse_yaml(text)
    except ValueError as error:
        raise ConfigError([Problem(str(path), f"not valid YAML: {error}")]) from None
    if not isinstance(content, dict):
        raise ConfigError([Problem(str(path), "a sweep file is a mapping of settings, such as `trials: 20`")])
    if problems := plain_data_problems(content):
        raise ConfigError(problems, str(path))
    return content


def _neighbours(path: Path) -> str:
    beside = sorted(found.name for found in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
    if not beside:
        return f"Current folder: {Path.cwd()}."
    more = f" and {len(beside) - _MOST_NEIGHBOURS} more" if len(beside) > _MOST_NEIGHBOURS else ""
    return f"{path.parent.resolve()} holds {', '.join(beside[:_MOST_NEIGHBOURS])}{more}."


def _parsed(assignment: str) -> tuple[list[str], Any]:
    """Return the keys of an assignment, and its value."""
    path, separator, text = assignment.partition("=")
    keys = path.strip().split(".")
    if not separator or not all(keys):
        raise ValueError("an assignment is written key=value, such as --set trials=20")
    try:
        return keys, parse_yaml(text)
    except ValueError as error:
        raise ValueError(f"{shown(text)} is not valid YAML: {error}") from None


def _assign(raw: Mapping[str, Any], keys: Sequence[str], value: Any) -> dict[str, Any]:
    """Return a copy of `raw` with one dotted path set."""
    changed = dict(raw)
    node: dict[str, Any] = changed
    for depth, key in enumerate(keys[:-1], start=1):
        inner = node.get(key)
        if inner is not None and not isinstance(inner, Mapping):
            raise ValueError(f"{shown('.'.join(keys[:depth]))} is {shown(inner)}, not a group of settings")
        node[key] = dict(inner or {})
        node = node[key]
    node[keys[-1]] = value
    return changed
