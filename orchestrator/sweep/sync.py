"""Transfer of the events of a sweep that MLflow has missed."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.config.option_values import setting_values
from orchestrator.config.plans import resolve_tracking
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.records.folder.sweep_identity import require_original
from orchestrator.sweep.compatibility import stored_config
from orchestrator.sweep.finalize import start_tracking
from orchestrator.tracking.mlflow_client import refuse_damaged_tracking, require_server

_DRAIN_S = 600.0


@dataclass(frozen=True)
class Synchronised:
    """Result of a transfer.

    Args:
        events: Number of events sent.
        tracking_uri: Tracking URI without its password.
    """

    events: int
    tracking_uri: str


def sync_sweep(folder: SweepFolder, tracking_uri: str | None = None) -> Synchronised:
    """Send the events of a journal that MLflow does not have yet; a running sweep does so by itself.

    Blocks for ten minutes at most.

    Args:
        folder: Folder of the sweep.
        tracking_uri: Tracking URI; None takes the recorded one.

    Raises:
        SweepNameError: The sweep is being run, or is a copy.
        ConfigError: Only the sweep's journal names the server.
        TrackingError: The server does not answer; nothing is lost.
    """
    config = stored_config(folder, values=setting_values(tracking_uri=tracking_uri), contacted=("tracking",))
    require_original(folder, addresses=[config.tracking.uri])
    plan = resolve_tracking(config.tracking, folder.path.parent)
    require_server(plan.uri)
    refuse_damaged_tracking(plan.uri)
    with folder.driven():
        writer = start_tracking(plan, folder.journal)
        writer.drain(_DRAIN_S)
    return Synchronised(writer.events_sent, writer.public_uri)
