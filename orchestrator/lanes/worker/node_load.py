"""Load of a node: CPU, memory and GPUs, under the names of MLflow's own system metrics."""

from __future__ import annotations

import contextlib
import functools
import socket
from collections.abc import Iterator, Sequence
from typing import Any

import psutil
import ray

_BYTES_PER_MEGABYTE = 1e6


def node_name() -> str:
    """Return host name and cluster address of this node, such as `node-7 (10.0.0.7)`."""
    return f"{socket.gethostname()} ({ray.util.get_node_ip_address()})"


class NodeLoad:
    """Load of this node; a reading takes well under a millisecond on CPUs and some milliseconds with GPUs.

    The use of the CPUs is the mean since the last reading, all else is of the moment.
    """

    def __init__(self) -> None:
        self._prefix = f"system/{socket.gethostname()}/"
        psutil.cpu_percent()  # begins the interval of the first reading

    def read(self) -> dict[str, float]:
        """Return all metrics of the load, such as `system/node-7/cpu_utilization_percentage`."""
        memory = psutil.virtual_memory()
        metrics = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / _BYTES_PER_MEGABYTE,
            "system_memory_usage_percentage": memory.percent,
            **dict(_gpu_metrics()),
        }
        return {self._prefix + name: round(float(value), 1) for name, value in metrics.items()}


def _gpu_metrics() -> Iterator[tuple[str, float]]:
    import pynvml

    for index, device in enumerate(_gpus()):
        with contextlib.suppress(pynvml.NVMLError):  # some devices do not support all readings
            memory = pynvml.nvmlDeviceGetMemoryInfo(device)
            yield f"gpu_{index}_memory_usage_megabytes", memory.used / _BYTES_PER_MEGABYTE
            yield f"gpu_{index}_memory_usage_percentage", 100 * memory.used / memory.total
        with contextlib.suppress(pynvml.NVMLError):
            yield f"gpu_{index}_utilization_percentage", pynvml.nvmlDeviceGetUtilizationRates(device).gpu
        with contextlib.suppress(pynvml.NVMLError):
            yield f"gpu_{index}_power_usage_watts", pynvml.nvmlDeviceGetPowerUsage(device) / 1000


@functools.cache
def _gpus() -> Sequence[Any]:
    """Return handles of all GPUs of the node, including those that this process may not use."""
    import pynvml

    try:
        pynvml.nvmlInit()
        return [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return []  # no driver, no GPU
