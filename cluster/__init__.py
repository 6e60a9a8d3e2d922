"""Clusters: submission of sweeps, job control, cluster checks, an MLflow server."""

from cluster.local_head import LocalHead, local_head

__all__ = ["LocalHead", "local_head"]
