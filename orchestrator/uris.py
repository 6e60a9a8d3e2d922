"""Masking of passwords in addresses, with one rule for records, messages and texts of libraries.

`without_password` takes a single address, `without_secrets` any text. Both mask at least the part that SQLAlchemy,
urllib and requests parse as the password, and more where these parsers disagree: which of several `@` ends a password,
or whether a `/`, `#` or `?` does. A host name is masked only where it may be part of a password.
"""

from __future__ import annotations

import base64
import functools
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, quote_plus, unquote, unquote_plus

MASK = "***"

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_HALF_A_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")
_USER = re.compile(r"(?:\[[\da-fA-F:.]*\]|[^:/\s'\"<>])*:")
_TOKEN_AS_USER = re.compile(r"[^:/?#@\s'\"<>]{20,}(?=@)")
_PORT = re.compile(r"\d{1,5}(?=[/?#])")
_QUERY_BEGIN = re.compile(r"\?[\w.%-]+=")
# End of an address in a text: a space, or a quotation mark that is not part of a password.
_TEXT_END = re.compile(r"\s|\\?[\"'](?=[\s,;:.)\]}>]|$)")
# A value with its `&`: text after a `&` without a `=` of its own belongs to the value before.
_QUERY_PAIR = re.compile(r"([^&=?]+)=((?:[^&]*)(?:&[^&=]+(?=&|$))*)")

_SECRET_KEYS = re.compile(
    r"password|passwd|passphrase|pwd|token|secret|credential|signature|apikey|accesskey|accountkey|privatekey"
    r"|^(?:sig|key|pass|auth|authorization|sas)$"
)
_ODBC = re.compile(r"((?:^|;)\s*(?:pwd|password|accesstoken)\s*=)(\{(?:[^}]|\}\})*\}|[^;]*)", re.IGNORECASE)
_ASSIGNED = re.compile(
    r"((?:password|passwd|pwd)(?:=|[\"']\s?:\s?|\s?[=:]\s?(?=[\"'])))"
    r"(\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)*'|\{(?:[^}\n]|\}\})*\}|[^\s&'\";,)]+)",
    re.IGNORECASE,
)
_HEADER = re.compile(r"(authorization[\"']?\s*[:=]\s*[\"']?(?:basic|bearer)\s+)[\w.~+/=-]+", re.IGNORECASE)

_SECRET_NAMES = re.compile(
    r"PASSWORD|PASSWD|PASSPHRASE|_PWD$|TOKEN|SECRET|CREDENTIAL|API_?KEY|PRIVATE_KEY|ACCESS_KEY(?!_ID)|ACCOUNT_KEY"
    r"|STORAGE_KEY|CONNECTION_STRING"
)
_NAMES_OF_PLACES = ("_FILE", "_PATH", "_DIR", "_URI", "_URL")
_SHORTEST_IN_ENVIRONMENT = 6
_SHORTEST = 3
# Shorter secrets are masked as whole words only, since they occur within other words.
_LONG = 8
_NO_SECRETS = frozenset({MASK, "password", "passwd", "secret", "token", "credential", "none", "null", "true", "false"})

_known: dict[str, str] = {}


def without_password(uri: str) -> str:
    """Return an address with its password and other secrets masked.

    Args:
        uri: One whole address, with or without a scheme.
    """
    scheme, rest = _split(uri)
    return scheme + "".join(text for text, _ in _parts(scheme, rest))


def without_user(uri: str) -> str:
    """Return an address without user and password, for a browser, which prompts for them."""
    scheme, rest = _split(uri)
    user = _USER.match(rest)
    end = _end_of_password(rest, user.end()) if user else -1
    if end < 0:
        end = rest.find("@", 0, re.search(r"[/?#]|$", rest).start())  # type: ignore[union-attr]
    return scheme + rest[end + 1 :]


def without_secrets(text: str) -> str:
    """Return a text with the passwords of addresses and all known secrets masked.

    Known secrets are the values of secret variables of the environment, and the passwords of addresses passed to
    `remember_secrets`, as they are and percent-encoded.
    """
    if not text:
        return text
    text = _HEADER.sub(rf"\1{MASK}", _ASSIGNED.sub(_masked_assignment, _addresses_masked(text)))
    known = {**_known, **_secrets_of_environment()}
    return _pattern(frozenset(known)).sub(lambda found: known[found[0]], text) if known else text


def masked(content: Any) -> Any:
    """Return plain data with the addresses in its texts masked."""
    if isinstance(content, str):
        return _addresses_masked(content)
    if isinstance(content, Mapping):
        return {key: masked(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return type(content)(masked(value) for value in content)
    return content


def holds_password(text: str) -> bool:
    """Return whether a text is or contains an address with a password; True in doubt."""
    later = (text[found.start() :] for found in _SCHEME.finditer(text))
    return any(without_password(part) != part for part in (text, *later))


def remember_secrets(texts: Iterable[object]) -> None:
    """Mask the passwords of addresses in all texts from now on, even outside an address.

    Args:
        texts: Addresses, or texts with addresses; other objects are ignored.
    """
    for text in texts:
        if isinstance(text, str) and ":" in text:
            _known.update(_secrets_in(text))


def remember_secret_address(url: str) -> None:
    """Mask path and query of an address in all texts from now on, as those of a webhook are its password.

    Args:
        url: Address; anything that is none, or has no path, is ignored.
    """
    scheme, rest = _split(url)
    host, slash, secret = rest.partition("/")
    secret = secret.rstrip("/")
    if not scheme or not host or not slash or len(secret) < _SHORTEST or MASK in url:
        return
    tokens = [part for part in re.split(r"[/?&=#]", secret) if len(part) >= _LONG]
    for text in (secret, *tokens):
        _known.update(dict.fromkeys(_forms(text), MASK))


def shown_origin(url: str) -> str:
    """Return an address of which only scheme, host and port are shown."""
    scheme, rest = _split(without_password(url))
    host, slash, secret = rest.partition("/")
    return f"{scheme}{host}{slash}{MASK}" if secret else f"{scheme}{host}{slash}"


def _addresses_masked(text: str) -> str:
    if "://" not in text:
        return text
    shown, position = [], 0
    while found := _SCHEME.search(text, position):
        end = _TEXT_END.search(text, found.end())
        stop = end.start() if end else len(text)
        shown.append(text[position : found.end()])
        shown += [_addresses_masked(part) for part, _ in _parts(found[0], text[found.end() : stop])]
        position = stop
    return "".join(shown) + text[position:]


def _split(uri: str) -> tuple[str, str]:
    found = _SCHEME.search(uri) or _HALF_A_SCHEME.match(uri)
    return (uri[: found.end()], uri[found.end() :]) if found else ("", uri)


def _parts(scheme: str, rest: str) -> Iterator[tuple[str, str]]:
    """Yield the text after `scheme://` in pieces: each as shown, with the secret that it replaces, if any."""
    user = _USER.match(rest)
    end = _end_of_password(rest, user.end()) if user else -1
    if user and end >= 0:
        yield rest[: user.end()], ""
        yield MASK, rest[user.end() : end]
        rest = rest[end:]
    elif "http" in scheme.lower() and (token := _TOKEN_AS_USER.match(rest)):
        yield MASK, token[0]
        rest = rest[token.end() :]
    path, mark, query = rest.partition("?")
    yield path + mark, ""
    position = 0
    for pair in _QUERY_PAIR.finditer(query):
        yield query[position : pair.start(2)], ""
        yield from _query_value(unquote(pair[1]), pair[2])
        position = pair.end()
    yield query[position:], ""


def _end_of_password(rest: str, begin: int) -> int:
    """Return the index of the last `@` that may end a password beginning at `begin`; -1 without one.

    An `@` in the query does not end it: after a port the query begins at once, otherwise after the first `@`.
    """
    port = _PORT.match(rest, begin)
    query = _QUERY_BEGIN.search(rest, begin if port else max(rest.find("@", begin), begin))
    return rest.rfind("@", begin, query.start() if query else len(rest))


def _query_value(key: str, value: str) -> Iterator[tuple[str, str]]:
    plain = re.sub(r"[-_.\s]", "", key).lower()
    if _SECRET_KEYS.search(plain):
        yield MASK, value
    elif plain == "odbcconnect":
        decoded = unquote_plus(value)
        secrets = [_unbraced(found[2]) for found in _ODBC.finditer(decoded)]
        yield quote_plus(_ODBC.sub(rf"\1{MASK}", decoded), safe="*") if secrets else value, ""
        yield from (("", secret) for secret in secrets)
    else:
        yield value, ""


def _unbraced(value: str) -> str:
    return value[1:-1].replace("}}", "}") if value.startswith("{") and value.endswith("}") else value


def _masked_assignment(found: re.Match[str]) -> str:
    mark = found[2][0] if found[2][0] in "\"'" else ""
    return f"{found[1]}{mark}{MASK}{mark}"


@functools.lru_cache(maxsize=256)
def _secrets_in(text: str) -> Mapping[str, str]:
    """Return every text that reveals a password of an address, with its replacement."""
    schemes = list(_SCHEME.finditer(text))
    stops = [*(later.start() for later in schemes[1:]), len(text)]
    addresses = {(each[0], text[each.end() : stop]) for each, stop in zip(schemes, stops, strict=False)}
    found: dict[str, str] = {}
    for scheme, rest in {*addresses, _split(text if schemes else text.partition("=")[2] or text)}:
        pieces = list(_parts(scheme, rest))
        shown = "".join(piece for piece, _ in pieces)
        named = {unquote(word) for word in re.split(r"[/:@?&=]", shown)}
        for secret in (secret for _, secret in pieces if secret):
            found |= {form: MASK for form in _forms(secret) if form not in named}
            if shown.partition(":")[2].startswith(f"{MASK}@") and secret == pieces[1][1]:
                found |= _fragments(shown.partition(":")[0], secret, rest)
    return found


@functools.lru_cache(maxsize=256)
def _forms(secret: str) -> frozenset[str]:
    """Return the forms of a secret: decoded, percent-encoded, and within JSON."""
    plain = {secret, unquote(secret), unquote_plus(secret)}
    encoded = {form for text in plain for form in (quote(text), quote(text, safe=""), quote_plus(text))}
    forms = {*plain, *encoded, *(json.dumps(text)[1:-1] for text in plain), *(repr(text)[1:-1] for text in plain)}
    return frozenset(form for form in forms if len(form) >= _SHORTEST and form.lower() not in _NO_SECRETS)


def _fragments(user: str, secret: str, rest: str) -> dict[str, str]:
    """Return the parts of a password that appear in messages of parsers that split it at `/`, `#`, `?` or `@`."""
    after = re.match(r"@([^/?#\s@]+)", rest[len(user) + 1 + len(secret) :])
    host = after[1] if after else ""
    plain = {secret, unquote(secret)}
    login = {base64.b64encode(f"{unquote(user)}:{text}".encode()).decode(): MASK for text in plain}
    cut = [(text, place) for text in plain for place in range(len(text)) if text[place] in "/?#@[]:\\"]
    heads = {f"{user}:{text[:place]}": f"{user}:{MASK}" for text, place in cut if user and place}
    tails = {f"{text[place + 1 :]}@{name}": f"{MASK}@{name}" for text, place in cut for name in {host, _name(host)}}
    return login | heads | {tail: shown for tail, shown in tails.items() if host and not tail.startswith("@")}


def _name(host: str) -> str:
    return host.rpartition(":")[0] if re.search(r":\d+$", host) else host


def _secrets_of_environment() -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in os.environ.items():
        if _SECRET_NAMES.search(name.upper()) and not name.upper().endswith(_NAMES_OF_PLACES):
            if len(value) >= _SHORTEST_IN_ENVIRONMENT:
                found |= dict.fromkeys(_forms(value), MASK)
        elif _SCHEME.match(value):
            found |= _secrets_in(value)
    return found


@functools.lru_cache(maxsize=16)
def _pattern(secrets: frozenset[str]) -> re.Pattern[str]:
    """Return a pattern for any of the secrets, the longest first; short ones only as whole words."""
    ordered = sorted(secrets, key=lambda secret: (-len(secret), secret))
    return re.compile(
        "|".join(
            re.escape(secret) if len(secret) >= _LONG else rf"(?<!\w){re.escape(secret)}(?!\w)" for secret in ordered
        )
    )
