"""Format of a line of a journal: an event as JSON, with its line number and a checksum of the text before it.

The number reveals a line that is missing, repeated or moved; the checksum reveals a changed byte. Lines of older
journals have neither; the settings in them that readers rely on are checked whenever they are read.
"""

from __future__ import annotations

import json
import re
import zlib
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from orchestrator.errors import SpatialSweepError
from orchestrator.records.events import EVENTS, FORMAT, Event
from orchestrator.records.settings.stored_settings import check_settings

LONGEST_LINE = 64 * 2**20
"""Limit of a line in bytes; an event that needs more is refused when it is written."""

_SEAL = re.compile(rb', "line": ([1-9][0-9]{0,9}), "crc": "([0-9a-f]{8})"\}\n\Z')
_LONGEST_SEAL = 64
_LEFT_OUT_WHERE_NONE = frozenset(
    {"identity", "held_s", "lane", "nodes", "failures", "cost", "best", "repeats", "replicate", "waits"}
)
_SHOWN = 60


class LineError(SpatialSweepError, ValueError):
    """Fault of a line.

    Args:
        text: Fault, as a clause about the line.
        newer: Whether a newer version has written the line, so that it is not damaged.
    """

    def __init__(self, text: str, *, newer: bool = False) -> None:
        super().__init__(text)
        self.newer = newer


@dataclass(frozen=True)
class Line:
    """Intact line.

    Args:
        event: Event in the line.
        number: Line number stored in it, from 1; None without a checksum.
    """

    event: Event
    number: int | None


def seal(event: Event, number: int) -> bytes:
    """Return the line of an event, with number and checksum.

    Args:
        event: Event to write.
        number: Number of its line in the file, from 1.

    Raises:
        LineError: The line exceeds the limit of the reader.
    """
    sealed = unsealed(event)[:-2] + f', "line": {number}'.encode()
    line = sealed + f', "crc": "{zlib.crc32(sealed):08x}"}}\n'.encode()
    if len(line) > LONGEST_LINE:
        raise LineError(f"the event '{event.event}' takes {len(line)} bytes; at most {LONGEST_LINE} are read back")
    return line


def content_of(event: Event) -> dict[str, Any]:
    """Return an event as plain data, without values that are unknown.

    Args:
        event: Event to convert.
    """
    content = {
        name: value for name, value in vars(event).items() if value is not None or name not in _LEFT_OUT_WHERE_NONE
    }
    if content.get("format") == 0:
        del content["format"]
    return content


def unsealed(event: Event) -> bytes:
    """Return the line of an event as older versions wrote it, without number and checksum."""
    return _without_lone_surrogates(json.dumps(content_of(event)).encode()) + b"\n"


def parse(raw: bytes) -> Line:
    """Parse a line.

    Args:
        raw: Bytes of the line, with the line feed.

    Raises:
        LineError: The line was altered, or is not a line of a journal.
    """
    if len(raw) > LONGEST_LINE:
        raise LineError(f"it is longer than {LONGEST_LINE} bytes")
    found = _SEAL.search(raw[-_LONGEST_SEAL:])
    if found is None and b', "crc":' in raw[-_LONGEST_SEAL:]:
        raise LineError("its checksum cannot be read")
    if found is None:
        return Line(_event(raw, checked=False), None)
    behind = len(raw) - (len(found.string) - found.start())
    covered = raw[: behind + len(b', "line": ') + len(found[1])]
    if zlib.crc32(covered) != int(found[2], 16):
        raise LineError(f"its checksum does not match{_hint(raw)}: the line is not as it was written")
    return Line(_event(raw[:behind] + b"}", checked=True), int(found[1]))


def names_newer_format(raw: bytes) -> int | None:
    """Return the format declared by a first line if it is newer than this version supports, else None."""
    try:
        declared = json.loads(raw).get("format")
    except (ValueError, AttributeError, RecursionError):
        return None
    return declared if type(declared) is int and declared > FORMAT else None


def _event(content: bytes, *, checked: bool) -> Event:
    if b"\0" in content:
        raise LineError("it holds NUL bytes, as a loss of power leaves them")
    try:
        content.decode()
    except UnicodeDecodeError as error:
        raise LineError(f"it is not UTF-8 (byte {error.start} of the line)") from None
    try:
        event = EVENTS.validate_json(content if checked else _without_lone_surrogates(content))
    except ValidationError as error:
        raise _fault(error, checked=checked) from None
    if not checked:
        require_usable_settings(event)
    return event


def require_usable_settings(event: Event) -> None:
    """Check the settings in an event that readers rely on.

    Raises:
        LineError: A setting is missing or has the wrong type.
    """
    try:
        check_settings(event)
    except ValidationError as error:
        raise LineError(_rule(error, f"{event.event}.config")) from None


def _fault(error: ValidationError, *, checked: bool) -> LineError:
    first: Any = error.errors(include_url=False)[0]
    kind, context = first["type"], first.get("ctx", {})
    if kind == "json_invalid":
        return LineError(f"it is not JSON ({context['error']})")
    if kind == "union_tag_not_found":
        return LineError("it names no event")
    if kind == "union_tag_invalid":
        text = f"the event {_shown(context['tag'])} is unknown"
        return LineError(f"{text}; a newer version has written it" if checked else text, newer=checked)
    if kind == "dict_type" and not first["loc"]:
        return LineError("it is not a JSON object")
    if kind == "unexpected_keyword_argument" and checked:
        return LineError(f"{_rule(error)}; a newer version has written it", newer=True)
    return LineError(_rule(error))


def _rule(error: ValidationError, *within: str) -> str:
    """Return the place of the first fault, its value and the rule."""
    first: Any = error.errors(include_url=False)[0]
    where = ".".join([*within, *(_shown(part, quoted=False) for part in first["loc"])])
    if first["type"] == "unexpected_keyword_argument":
        return f"{where}: unknown key"
    if first["type"].startswith("missing"):
        return f"{where}: missing"
    return f"{where}: got {_shown(first['input'])}; {first['msg'][:1].lower()}{first['msg'][1:]}"


def _hint(raw: bytes) -> str:
    return " and it holds NUL bytes, as a loss of power leaves them" if b"\0" in raw else ""


def _shown(value: object, *, quoted: bool = True) -> str:
    text = ascii(value) if quoted or not str(value).isprintable() else str(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def _without_lone_surrogates(content: bytes) -> bytes:
    """Replace characters that UTF-8 cannot encode, such as bytes of a file name that is not UTF-8."""
    if b"\\ud" not in content.lower():
        return content
    try:
        text = json.dumps(json.loads(content), ensure_ascii=False).encode("utf-8", "replace")
        return json.dumps(json.loads(text)).encode()
    except (ValueError, RecursionError):
        return content  # the reader reports the fault
