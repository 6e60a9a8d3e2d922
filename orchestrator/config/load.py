"""Reads a sweep file and lays `--set` assignments over it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from orchestrator.config.schema import SweepConfig
from orchestrator.errors import ConfigError, Problem


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads `1e-3` as text; here it is the number everyone means. Keys may not repeat."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        repeated = sorted({key for key in keys if keys.count(key) > 1})
        if repeated:
            raise yaml.constructor.ConstructorError(
                None, None, f"'{repeated[0]}' is written twice; keep one", node.start_mark
            )
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)$"),
    list("-+.0123456789"),
)


def load_sweep(
    source: str | Path | Mapping[str, Any], overrides: Sequence[str] = (), *, label: str | None = None
) -> SweepConfig:
    """Builds the configuration of a sweep and checks all of it.

    Args:
        source: A YAML file, or its content as a mapping.
        overrides: Assignments such as `trials=20` or `search.lr.low=1e-3`, read as YAML, applied in order.
        label: What errors call the source; a file is called by its name.

    Raises:
        ConfigError: The file cannot be read, or any setting is wrong; every fault is listed.
    """
    label = label or (None if isinstance(source, Mapping) else Path(source).name)
    raw, problems = overridden(source, overrides)
    try:
        if problems:
            raise ConfigError([*problems, *_faults(raw)])
        return SweepConfig(**raw)
    except ConfigError as error:
        raise (error.with_source(label) if label else error) from None


def overridden(
    source: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()
) -> tuple[dict[str, Any], list[Problem]]:
    """The settings of a sweep with `--set` assignments laid over them, unchecked, and the assignments at fault.

    Raises:
        ConfigError: The file cannot be read.
    """
    raw = dict(source) if isinstance(source, Mapping) else read_settings(Path(source))
    problems = []
    for assignment in overrides:
        try:
            raw = _assign(raw, assignment)
        except ValueError as error:
            problems.append(Problem(f"--set {assignment}", str(error)))
    return raw, problems


def _faults(raw: Mapping[str, Any]) -> Sequence[Problem]:
    try:
        SweepConfig(**raw)
    except ConfigError as error:
        return error.problems
    return ()


def read_settings(path: Path) -> dict[str, Any]:
    """The content of a settings file, unchecked.

    Raises:
        ConfigError: The file is missing, or is no mapping in YAML.
    """
    if not path.is_file():
        beside = sorted(found.name for found in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        hint = f"{path.parent} holds {', '.join(beside)}." if beside else f"Current folder: {Path.cwd()}."
        raise ConfigError([Problem(str(path), f"no such file. {hint}")])
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, ValueError) as error:  # a ValueError: bytes that are no text, a 13th month
        raise ConfigError([Problem(str(path), f"not valid YAML: {error}")]) from None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigError([Problem(str(path), "a sweep file is a mapping of settings, such as `trials: 20`")])
    return content


def _assign(raw: Mapping[str, Any], assignment: str) -> dict[str, Any]:
    """A copy of `raw` with one dotted path set."""
    path, separator, text = assignment.partition("=")
    keys = path.strip().split(".")
    if not separator or not all(keys):
        raise ValueError("an assignment is written key=value, such as --set trials=20")
    try:
        value = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError:
        raise ValueError(f"'{text}' is not valid YAML") from None
    changed = dict(raw)
    node: dict[str, Any] = changed
    for depth, key in enumerate(keys[:-1], start=1):
        inner = node.get(key)
        if inner is not None and not isinstance(inner, Mapping):
            raise ValueError(f"'{'.'.join(keys[:depth])}' is {inner!r}, not a group of settings")
        node[key] = dict(inner or {})
        node = node[key]
    node[keys[-1]] = value
    return changed
