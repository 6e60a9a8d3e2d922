"""MLflow's client, created after a check of its database."""

from __future__ import annotations

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from orchestrator.errors import TrackingError, first_line
from orchestrator.files.database_file import require_intact_database
from orchestrator.tracking.moved_results import update_artifact_places
from orchestrator.uris import without_password

_REMEDY = "Move it away: `spatialsweep sync NAME` sends the events of a sweep into a new one"


def open_client(tracking_uri: str) -> MlflowClient:
    """Open the client of a server, or of a database whose folder of results may have been moved.

    Args:
        tracking_uri: Address of the server or database.

    Raises:
        TrackingError: The file of the database is damaged, or holds something else.
    """
    refuse_damaged_tracking(tracking_uri)
    update_artifact_places(tracking_uri)
    try:
        return MlflowClient(tracking_uri)
    except (MlflowException, SQLAlchemyError) as error:
        reason = first_line(error)
        raise TrackingError(f"MLflow at {without_password(tracking_uri)} cannot be used: {reason}") from error


def refuse_damaged_tracking(tracking_uri: str) -> None:
    """Check the database of the runs, where it is a file.

    Args:
        tracking_uri: Address of the server or database.

    Raises:
        TrackingError: The database is damaged.
    """
    require_intact_database(tracking_uri, TrackingError, _REMEDY)
