"""Authentication under a Ray whose default is a token for every cluster, as announced for 2.61."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from ray._raylet import AuthenticationMode, get_authentication_mode

from cluster import job_client
from orchestrator.errors import ClusterError
from orchestrator.runtime import cluster_token
from orchestrator.runtime.auth_settings import settings_of_client
from orchestrator.runtime.cluster_token import settings_to_join, token_settings
from orchestrator.runtime.private_instance import own_token
from orchestrator.runtime.ray_private import core

NAMES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


class Cluster(grpc.GenericRpcHandler):
    """Ray's control service as far as the request before joining goes.

    Args:
        token: Token that every client needs; None for a cluster without one.
    """

    def __init__(self, token: str | None) -> None:
        self.expected = None if token is None else f"Bearer {token}"

    def service(self, handler_call_details: Any) -> Any:
        shown = dict(handler_call_details.invocation_metadata).get("authorization")

        def answer(_: bytes, context: grpc.ServicerContext) -> bytes:
            if self.expected not in (None, shown):
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")
            return b""

        return grpc.unary_unary_rpc_method_handler(answer)


@pytest.fixture
def cluster_address(request: pytest.FixtureRequest) -> Iterator[str]:
    """Address of a control service; the parameter is its token."""
    server = grpc.server(ThreadPoolExecutor(1), handlers=(Cluster(request.param),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.fixture
def token_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have Ray take an unset `RAY_AUTH_MODE` for `token`, in an environment and a home without tokens."""
    read_again = core.reload_authentication

    def reload() -> None:
        with pytest.MonkeyPatch.context() as patch:
            if "RAY_AUTH_MODE" not in os.environ:
                patch.setenv("RAY_AUTH_MODE", "token")
            read_again()

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path))
        for name in NAMES:
            patch.delenv(name, raising=False)
        for module in (core, cluster_token):
            patch.setattr(module, "reload_authentication", reload)
        reload()
        assert mode() == "TOKEN"
        yield
    read_again()


def mode() -> str:
    """Return the mode that Ray has read."""
    return "TOKEN" if get_authentication_mode() == AuthenticationMode.TOKEN else "DISABLED"


@pytest.mark.parametrize("cluster_address", [None], indirect=True)
@pytest.mark.usefixtures("token_by_default")
def test_a_cluster_without_a_token_is_joined_without_one(cluster_address: str) -> None:
    with token_settings(settings_to_join(cluster_address, os.environ)):
        assert mode() == "DISABLED"
    assert mode() == "TOKEN"
    assert "RAY_AUTH_MODE" not in os.environ
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a" * 64}
    for chosen in (token, {"RAY_AUTH_MODE": "disabled"}):
        assert settings_to_join(cluster_address, chosen) == {}
    with pytest.raises(ClusterError, match=r"RAY_AUTH_MODE is 'token' and no token is set; .* Unset RAY_AUTH_MODE, or"):
        settings_to_join(cluster_address, {"RAY_AUTH_MODE": "token"})


@pytest.mark.parametrize("cluster_address", ["b" * 64], indirect=True)
@pytest.mark.usefixtures("token_by_default")
def test_a_cluster_with_a_token_is_joined_with_it(cluster_address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ClusterError, match="requires a token, and none is set here"):
        settings_to_join(cluster_address, os.environ)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "b" * 64)
    with token_settings(settings_to_join(cluster_address, os.environ)):
        assert (mode(), os.environ["RAY_AUTH_MODE"]) == ("TOKEN", "token")


@pytest.mark.usefixtures("token_by_default")
def test_a_client_of_jobs_sends_a_token_only_where_the_user_has_one(tmp_path: Path) -> None:
    job_client._authenticate()
    assert mode() == "DISABLED"
    assert "RAY_AUTH_MODE" not in os.environ
    assert set(own_token(os.environ)) == {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN"}, "a private instance still has a token"
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("c" * 64)
    job_client._authenticate()
    assert (mode(), os.environ["RAY_AUTH_MODE"]) == ("TOKEN", "token")


@pytest.mark.usefixtures("token_by_default")
def test_a_client_that_cannot_query_first_keeps_the_users_mode(tmp_path: Path) -> None:
    assert settings_of_client({}) == {"RAY_AUTH_MODE": "disabled"}
    assert settings_of_client({"RAY_AUTH_TOKEN": "mine"}) == {"RAY_AUTH_MODE": "token"}
    for chosen in ("token", "disabled"):
        assert settings_of_client({"RAY_AUTH_MODE": chosen}) == {}
    with pytest.raises(ClusterError, match="cannot be read"):
        settings_of_client({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "missing")})
