"""Names and reasons as messages show them: one line of UTF-8, whatever a file holds."""

from __future__ import annotations

__all__ = ["is_utf8", "one_line", "shown_name"]

_LONGEST = 200


def is_utf8(name: str) -> bool:
    """Whether a file name, as Python reads it, was UTF-8 on disk."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def shown_name(name: str) -> str:
    """Return a name with undecodable bytes and control characters escaped, and its middle left out if it is long."""
    plain = "".join(_escaped(character) for character in name)
    return plain if len(plain) <= _LONGEST else f"{plain[: _LONGEST // 2]}...{plain[-_LONGEST // 2 :]}"


def one_line(error: BaseException) -> str:
    """Return what a library says of a file it cannot read, as one printable line; its kind if it says nothing."""
    first = next(iter(str(error).splitlines()), "").strip().rstrip(":.")
    return shown_name(first) or type(error).__name__


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character if character.isprintable() else character.encode("unicode_escape", "surrogatepass").decode("ascii")
