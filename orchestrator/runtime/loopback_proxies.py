"""Servers of this machine are asked directly, whatever proxy leads out of it."""

from __future__ import annotations

from collections.abc import MutableMapping

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_EXCEPTIONS = ("no_proxy", "NO_PROXY")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")


def keep_loopback_direct(environ: MutableMapping[str, str]) -> None:
    """Add this machine's own addresses to those that no proxy is asked for, where a proxy is set.

    Args:
        environ: Environment of this process, which those it starts inherit.
    """
    if not any(environ.get(name) or environ.get(name.upper()) for name in _PROXIES):
        return
    given = [host.strip() for name in _EXCEPTIONS for host in environ.get(name, "").split(",") if host.strip()]
    if "*" in given:
        return
    # Programs look at one of the two names only, and not at the same.
    hosts = ",".join(dict.fromkeys([*given, *_LOOPBACK]))
    environ.update(dict.fromkeys(_EXCEPTIONS, hosts))
