"""Names and reasons for messages: one printable line of UTF-8, for any content of a file."""

from __future__ import annotations

import reprlib

__all__ = ["brief", "is_utf8", "one_line", "shown_name"]

_LONGEST = 200
_BRIEF = reprlib.Repr()
_BRIEF.maxlevel, _BRIEF.maxstring, _BRIEF.maxother, _BRIEF.maxlong = 2, 60, 60, 30


def is_utf8(name: str) -> bool:
    """Check whether a file name was valid UTF-8 on disk."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def shown_name(name: str) -> str:
    """Return a name with undecodable bytes and control characters escaped, shortened in the middle if long."""
    plain = "".join(_escaped(character) for character in name)
    return plain if len(plain) <= _LONGEST else f"{plain[: _LONGEST // 2]}...{plain[-_LONGEST // 2 :]}"


def brief(value: object) -> str:
    """Return a value of a file from outside in Python's notation, shortened to one printable line."""
    return shown_name(_BRIEF.repr(value))


def one_line(error: BaseException) -> str:
    """Return the message of an exception as one printable line; its class name if the message is empty."""
    first = next(iter(str(error).splitlines()), "").strip().rstrip(":.")
    return shown_name(first) or type(error).__name__


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character if character.isprintable() else character.encode("unicode_escape", "surrogatepass").decode("ascii")
