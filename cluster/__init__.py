"""Clusters to run sweeps on."""

from cluster.local_head import LocalHead, local_head

__all__ = ["LocalHead", "local_head"]
