"""`python -m cluster.mlflow`: MLflow server for several users."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from cluster.mlflow.tracking_server import ADMIN_PASSWORD, DATABASE, ServerSettings, TrackingServerError, run_server


def serve(
    *,
    artifacts: Annotated[str, typer.Option(help="Artifact store: s3://bucket/folder, or a folder of this machine.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 5000,
    allowed_hosts: Annotated[str, typer.Option(help="Host names that clients use, separated by commas.")] = "",
    admin: Annotated[str, typer.Option(help="Name of the first user.")] = "admin",
    workers: Annotated[int, typer.Option(help="Number of server processes.", min=1)] = 4,
) -> None:
    """Serve MLflow with PostgreSQL, an artifact proxy and passwords.

    The database and the first password come from MLFLOW_BACKEND_STORE_URI and MLFLOW_AUTH_ADMIN_PASSWORD.
    """
    settings = ServerSettings(
        database=os.environ.get(DATABASE, ""),
        artifacts=artifacts,
        host=host,
        port=port,
        allowed_hosts=tuple(name.strip() for name in allowed_hosts.split(",") if name.strip()),
        admin_password=os.environ.get(ADMIN_PASSWORD, ""),
        admin_name=admin,
        workers=workers,
    )
    try:
        code = run_server(settings)
    except TrackingServerError as error:
        typer.echo(str(error), err=True)
        code = 2
    sys.exit(code)


if __name__ == "__main__":
    typer.run(serve)
