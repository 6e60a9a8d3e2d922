"""MLflow server for several users: PostgreSQL, artifact proxy, passwords; see docs/running/mlflow-server.md."""

from cluster.mlflow.tracking_server import ServerSettings, TrackingServerError, run_server

__all__ = ["ServerSettings", "TrackingServerError", "run_server"]
