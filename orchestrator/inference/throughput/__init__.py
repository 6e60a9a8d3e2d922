"""Throughput of several networks side by side, with the memory they need."""

from orchestrator.inference.throughput.compared import ComparedNetwork, compared_networks, side_for
from orchestrator.inference.throughput.measurement import (
    Throughput,
    ThroughputReport,
    device_named,
    measure_throughput,
)

__all__ = [
    "ComparedNetwork",
    "Throughput",
    "ThroughputReport",
    "compared_networks",
    "device_named",
    "measure_throughput",
    "side_for",
]
