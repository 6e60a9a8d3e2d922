"""How busy a node is: CPU, memory and GPUs, under the names MLflow gives its own system metrics."""

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
    """This host and the address that its cluster knows it by, such as `node-7 (10.0.0.7)`."""
    return f"{socket.gethostname()} ({ray.util.get_node_ip_address()})"


class NodeLoad:
    """Reads the load of this node, which takes well under a millisecond on CPUs and a few with GPUs.

    The use of the CPUs is that since the reading before, the rest that of the moment.
    """

    def __init__(self) -> None:
        self._prefix = f"system/{socket.gethostname()}/"
        psutil.cpu_percent()  # the first reading is since now

    def read(self) -> dict[str, float]:
        """Every figure, such as `system/node-7/cpu_utilization_percentage`."""
        memory = psutil.virtual_memory()
        figures = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / _BYTES_PER_MEGABYTE,
            "system_memory_usage_percentage": memory.percent,
            **dict(_gpu_figures()),
        }
        return {self._prefix + name: round(float(value), 1) for name, value in figures.items()}


def _gpu_figures() -> Iterator[tuple[str, float]]:
    import pynvml

    for index, device in enumerate(_gpus()):
        with contextlib.suppress(pynvml.NVMLError):  # some devices do not tell all
            memory = pynvml.nvmlDeviceGetMemoryInfo(device)
            yield f"gpu_{index}_memory_usage_megabytes", memory.used / _BYTES_PER_MEGABYTE
            yield f"gpu_{index}_memory_usage_percentage", 100 * memory.used / memory.total
        with contextlib.suppress(pynvml.NVMLError):
            yield f"gpu_{index}_utilization_percentage", pynvml.nvmlDeviceGetUtilizationRates(device).gpu
        with contextlib.suppress(pynvml.NVMLError):
            yield f"gpu_{index}_power_usage_watts", pynvml.nvmlDeviceGetPowerUsage(device) / 1000


@functools.cache
def _gpus() -> Sequence[Any]:
    """Handles of all GPUs of the node, whether or not this process may compute on them."""
    import pynvml

    try:
        pynvml.nvmlInit()
        return [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return []  # no driver, no GPU
