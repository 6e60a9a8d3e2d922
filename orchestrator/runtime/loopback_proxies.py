"""Exemption of this machine's own addresses from HTTP and gRPC proxies."""

from __future__ import annotations

from collections.abc import MutableMapping

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_EXCEPTIONS = ("no_proxy", "NO_PROXY")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")


def keep_loopback_direct(environ: MutableMapping[str, str]) -> None:
    """Add this machine's own addresses to `no_proxy` where a proxy is set.

    Args:
        environ: Environment of this process, which its child processes inherit.
    """
    if not any(environ.get(name) or environ.get(name.upper()) for name in _PROXIES):
        return
    given = [host.strip() for name in _EXCEPTIONS for host in environ.get(name, "").split(",") if host.strip()]
    if "*" in given:
        return
    # Some programs read the lower-case name only, others the upper-case one.
    hosts = ",".join(dict.fromkeys([*given, *_LOOPBACK]))
    environ.update(dict.fromkeys(_EXCEPTIONS, hosts))
