"""Settings of Ray's token authentication that a process has, without an import of Ray, which reads them only once.

Every process of ours that starts Ray or connects to it has `RAY_AUTH_MODE` set, so that Ray's default does not matter:
it is `disabled` up to Ray 2.58, `token` for private instances from 2.59 on and for all clusters from 2.61 on.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from orchestrator.errors import ClusterError

MODE, TOKEN, PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"

__all__ = ["MODE", "PATH", "TOKEN", "known_token", "settings_of_client"]


def known_token(environ: Mapping[str, str]) -> tuple[str, str | None]:
    """Return the source of the user's token, and the token; None where there is none.

    Args:
        environ: Environment of this process.

    Raises:
        ClusterError: The file in `RAY_AUTH_TOKEN_PATH` cannot be read, or is empty.
    """
    if environ.get(TOKEN):
        return TOKEN, environ[TOKEN].strip()
    named = environ.get(PATH)
    path = Path(named) if named else Path.home() / ".ray" / "auth_token"
    try:
        token = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        if named is None:
            return "~/.ray/auth_token", None
        raise ClusterError(f"{PATH}: '{path}' cannot be read: {error}. Set it to a file with the token.") from None
    if not token and named is not None:
        raise ClusterError(f"{PATH}: '{path}' is empty. Set it to a file with the token.")
    return (PATH if named else "~/.ray/auth_token"), token or None


def settings_of_client(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the settings for a server that cannot be queried first: the user's token is sent where there is one.

    Without a token Ray's client has to run in the mode `disabled`; in the other it raises an error before its first
    request, even where the server requires none.

    Args:
        environ: Environment of this process; its `RAY_AUTH_MODE` stays.

    Raises:
        ClusterError: The file in `RAY_AUTH_TOKEN_PATH` cannot be read, or is empty.
    """
    if MODE in environ:
        return {}
    _, token = known_token(environ)
    return {MODE: "disabled" if token is None else "token"}
