"""Authentication of this process at a Ray cluster, and the check whether a cluster requires a token."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import ray

from orchestrator.errors import ClusterError
from orchestrator.runtime.auth_settings import MODE, PATH, TOKEN, known_token
from orchestrator.runtime.ray_private.core import reload_authentication

_ANSWER_S = 10.0
_ASK = "/ray.rpc.NodeInfoGcsService/GetClusterId"  # read-only, and Ray's own first request


@contextmanager
def token_settings(settings: Mapping[str, str]) -> Iterator[None]:
    """Set variables of the environment that Ray authenticates with; restore the former ones afterwards.

    Ray reads them once, when it is imported, so it is made to read them again both times.

    Args:
        settings: Values of `RAY_AUTH_MODE` and `RAY_AUTH_TOKEN`.
    """
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    reload_authentication()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if not ray.is_initialized():  # threads of a lost session still send requests
            reload_authentication()


def settings_to_join(address: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the settings with which this process is admitted to a cluster.

    Args:
        address: Host and port of the cluster's control service.
        environ: Environment of this process; its `RAY_AUTH_MODE` stays.

    Raises:
        ClusterError: The cluster requires a token, and none is set, or a different one; or this process has to send
            one and has none.
    """
    if not _refuses(address, None):
        return _settings_without_token(address, environ)
    source, token = known_token(environ)
    mode = environ.get(MODE, "token")
    if mode.lower() != "token":
        raise ClusterError(f"the cluster at '{address}' requires a token, and {MODE} is '{mode}' here. Unset it.")
    if token is None:
        raise ClusterError(
            f"the cluster at '{address}' requires a token, and none is set here. Set {TOKEN}, {PATH} or the file "
            "~/.ray/auth_token to the one of its head."
        )
    if _refuses(address, token):
        raise ClusterError(f"the cluster at '{address}' refuses the token of {source}. Set the one of its head there.")
    return {MODE: "token"}


def _settings_without_token(address: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the settings for a cluster that requires no token."""
    mode = environ.get(MODE)
    if mode is None:
        return {MODE: "disabled"}
    if mode.lower() == "token" and known_token(environ)[1] is None:
        raise ClusterError(
            f"{MODE} is '{mode}' and no token is set; the cluster at '{address}' requires none. Unset {MODE}, or set "
            f"{TOKEN}, {PATH} or the file ~/.ray/auth_token."
        )
    return {}


def _refuses(address: str, token: str | None) -> bool:
    """Return whether a cluster rejects a token, by a single request; Ray itself retries for about a minute."""
    import grpc  # type: ignore[import-untyped]

    shown = () if token is None else (("authorization", f"Bearer {token}"),)
    with grpc.insecure_channel(address, options=(("grpc.enable_http_proxy", 0),)) as channel:
        try:
            channel.unary_unary(_ASK)(b"", timeout=_ANSWER_S, metadata=shown)
        except grpc.RpcError as error:
            return bool(error.code() == grpc.StatusCode.UNAUTHENTICATED)
    return False
