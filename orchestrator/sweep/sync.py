"""Brings MLflow up to date with a sweep whose events it has missed."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.config.option_values import setting_values
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.records.folder.sweep_identity import require_original
from orchestrator.server_addresses import embedded_uri
from orchestrator.sweep.compatibility import stored_config
from orchestrator.sweep.finalize import start_tracking
from orchestrator.tracking.mlflow_client import refuse_damaged_tracking

_PATIENCE_S = 600.0


@dataclass(frozen=True)
class Synchronised:
    """What was sent.

    Args:
        events: How many.
        tracking_uri: Where to; without its password.
    """

    events: int
    tracking_uri: str


def sync_sweep(folder: SweepFolder, tracking_uri: str | None = None) -> Synchronised:
    """Sends what of a sweep's journal MLflow does not have yet; a sweep that is being run does so by itself.

    Args:
        folder: Of the sweep.
        tracking_uri: Where to, if not as recorded.

    Raises:
        SweepNameError: The sweep is being run, or is a copy.
        ConfigError: Only the sweep's journal names the server.
        TrackingError: The server is still away; nothing is lost.
    """
    config = stored_config(folder, values=setting_values(tracking_uri=tracking_uri), contacted=("tracking",))
    require_original(folder, addresses=[config.tracking.uri])
    refuse_damaged_tracking(config.tracking.uri or embedded_uri(folder.path.parent))
    with folder.driven():
        writer = start_tracking(config, folder.path.parent, folder.journal)
        writer.drain(_PATIENCE_S)
    return Synchronised(writer.events_sent, writer.public_uri)
