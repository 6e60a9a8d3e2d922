"""Sweep files and `--set` values as YAML: the core rules of version 1.2, of a bounded size.

PyYAML follows version 1.1, where `1:30` is 90, `010` is 8, `no` is false and `2026-01-01` a date. Here they are what
YAML 1.2 makes of them: a text, 10, a text and a text. Merge keys (`<<`) of version 1.1 are kept.
"""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import Any

import yaml

from orchestrator.config.validation.plain_data import MOST_DEPTH, MOST_VALUES

__all__ = ["MOST_BYTES", "as_yaml", "parse_yaml", "read_text"]

MOST_BYTES = 1 << 20
_MOST_DIGITS = 4_000  # Python reads no integer beyond 4,300
_TAG = "tag:yaml.org,2002:"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")

_RULES = {
    "null": ("(?:~|null|Null|NULL|)", ["~", "n", "N", ""]),
    "bool": ("(?:true|True|TRUE|false|False|FALSE)", list("tTfF")),
    "int": (r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)", list("-+0123456789")),
    "float": (
        r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))",
        list("-+.0123456789"),
    ),
    "merge": ("(?:<<)", ["<"]),
}
"""Pattern of each kind of plain scalar, tried in order; anything else is a text."""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML loader with the core rules of version 1.2, which rejects repeated keys and unknown tags."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - as PyYAML declares them
    yaml_constructors: dict[str, Any] = {}  # noqa: RUF012

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise _fault(f"'{key.value}' is written twice; keep one", key)
                seen.add((key.tag, key.value))
        content: dict[Any, Any] = super().construct_mapping(node, deep)
        return content

    def construct_bool(self, node: yaml.ScalarNode) -> bool:
        return _matched("bool", node)[0] in "tT"

    def construct_int(self, node: yaml.ScalarNode) -> int:
        text = _matched("int", node)
        if len(text) > _MOST_DIGITS:
            raise _fault(f"a number of {len(text):,} digits is too long", node)
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))

    def construct_float(self, node: yaml.ScalarNode) -> float:
        text = _matched("float", node)
        return float(text.replace(".", "", 1) if text.lower().endswith(("inf", "nan")) else text)


class _Dumper(yaml.SafeDumper):
    """YAML writer that quotes every text that either version of YAML would read as something else."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - as PyYAML calls it
        return True


for _name, (_pattern, _first) in _RULES.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"{_TAG}{_name}", re.compile(f"^{_pattern}$"), _first)
for _name in ("null", "bool", "int", "float", "str", "seq", "map"):
    _Loader.add_constructor(
        f"{_TAG}{_name}",
        getattr(_Loader, f"construct_{_name}" if _name in ("bool", "int", "float") else f"construct_yaml_{_name}"),
    )
_Loader.add_constructor(None, _Loader.construct_undefined)


def parse_yaml(text: str) -> Any:
    """Return the content of a YAML text.

    Args:
        text: One YAML document.

    Raises:
        ValueError: It is not valid YAML, or larger than settings may be; the text is one line with the position.
    """
    try:
        _check_size(text)
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        raise ValueError(_one_line(error)) from None
    except UnicodeError:
        raise ValueError("it holds a character that is no text") from None


def as_yaml(content: Any, **style: Any) -> str:
    """Return YAML that `parse_yaml` reads as the same content.

    Args:
        content: Plain data.
        style: Further arguments of `yaml.dump`.
    """
    return str(yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, **style))


def read_text(path: Path) -> str:
    """Return the content of a settings file.

    Raises:
        ValueError: It is not a file, too large, or not UTF-8 text; the message is one line with the fix.
        OSError: It cannot be read.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe or a device"
        raise ValueError(f"is {kind}, not a file. Name a sweep file, such as sweeps/digits.yaml")
    if found.st_size > MOST_BYTES:
        raise ValueError(f"has {found.st_size:,} bytes; a sweep file has at most {MOST_BYTES:,}")
    with path.open("rb") as file:
        content = file.read(MOST_BYTES)
    if content.startswith(_UTF_16) or b"\0" in content[:2]:
        raise ValueError("is no UTF-8 text (it may be UTF-16). Save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start + 1:,} is no UTF-8 text. Save the file as UTF-8") from None


def _check_size(text: str) -> None:
    """Count values as if every alias were written out, without expanding any.

    Raises:
        yaml.YAMLError: There are too many values, or they are nested too deeply.
    """
    total = 0
    sizes: dict[str, int] = {}
    opened: list[tuple[str | None, int]] = []  # anchor of a group, and the total before it
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            opened.append((event.anchor, total))
            total += 1
            if len(opened) > MOST_DEPTH:
                raise _fault(f"settings are nested at most {MOST_DEPTH} deep", event)
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = opened.pop()
            if anchor is not None:
                sizes[anchor] = total - before
        elif isinstance(event, yaml.ScalarEvent):
            total += 1
            if event.anchor is not None:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in opened):
                raise _fault(f"'*{event.anchor}' stands within itself", event)
            total += sizes.get(str(event.anchor), 1)
        if total > MOST_VALUES:
            raise _fault(f"it holds more than {MOST_VALUES:,} keys and values", event)


def _matched(kind: str, node: yaml.ScalarNode) -> str:
    """Return the text of a scalar, checked: an explicit tag such as `!!int` may contradict it."""
    text = str(node.value)
    if re.fullmatch(_RULES[kind][0], text) is None:
        raise _fault(f"{text[:40]!r} is no {kind}", node)
    return text


def _fault(problem: str, where: Any) -> yaml.MarkedYAMLError:
    """Return an error that names the position of a node or an event."""
    return yaml.constructor.ConstructorError(None, None, problem, where.start_mark)


def _one_line(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = " ".join(str(getattr(error, "problem", None) or error).split())
    remedy = ". Indent with spaces, not with tabs" if "\\t" in problem or "tab char" in problem else ""
    return (
        f"{problem}{remedy}" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: {problem}{remedy}"
    )
