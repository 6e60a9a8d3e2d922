"""`python -m cluster.mlflow.user`: create a user of an MLflow server, who manages the experiments they create."""

from __future__ import annotations

import base64
import http
import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Annotated

import typer

from cluster.mlflow.tracking_server import TrackingServerError

_USERS = "api/2.0/mlflow/users"
_ANSWER_S = 30.0


def make_user(server: str, administrator: tuple[str, str], user: tuple[str, str]) -> str:
    """Create a user, or set the password of an existing one; return a description.

    Args:
        server: Address of the server, with scheme and port.
        administrator: Name and password.
        user: Name and password.

    Raises:
        TrackingServerError: The server does not answer, or refuses.
    """
    name, password = user
    if _ask(server, administrator, "POST", "create", {"username": name, "password": password}):
        return f"made the user '{name}'"
    _ask(server, administrator, "PATCH", "update-password", {"username": name, "password": password})
    return f"set the password of the user '{name}'"


def _ask(server: str, administrator: tuple[str, str], method: str, what: str, body: Mapping[str, str]) -> bool:
    """Return whether the request created something; False if it already exists."""
    request = urllib.request.Request(  # noqa: S310 - the address comes from the administrator
        f"{server.rstrip('/')}/{_USERS}/{what}",
        data=json.dumps(body).encode(),
        method=method,
        headers={
            "Content-Type": "application/json",
            "Authorization": f"Basic {base64.b64encode(':'.join(administrator).encode()).decode()}",
        },
    )
    try:
        with urllib.request.urlopen(request, timeout=_ANSWER_S):  # noqa: S310
            return True
    except urllib.error.HTTPError as error:
        text = error.read().decode(errors="replace")
        if error.code == http.HTTPStatus.BAD_REQUEST and "RESOURCE_ALREADY_EXISTS" in text:
            return False
        raise TrackingServerError(f"{server} refuses to {what} '{body['username']}': {error.code} {text}") from None
    except (urllib.error.URLError, OSError) as error:
        raise TrackingServerError(f"no MLflow server answers at {server}: {error}") from None


def main(server: Annotated[str, typer.Option(help="Such as http://mlflow:5000.")]) -> None:
    """Create a user of an MLflow server, or set the password of an existing one.

    The administrator's name and password come from MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, the user's
    from MLFLOW_USER and MLFLOW_USER_PASSWORD.
    """
    names = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_USER", "MLFLOW_USER_PASSWORD")
    if missing := [name for name in names if not os.environ.get(name)]:
        typer.echo(f"set {', '.join(missing)}", err=True)
        sys.exit(2)
    one, two, three, four = (os.environ[name] for name in names)
    try:
        typer.echo(make_user(server, (one, two), (three, four)))
    except TrackingServerError as error:
        typer.echo(str(error), err=True)
        sys.exit(1)


if __name__ == "__main__":
    typer.run(main)
