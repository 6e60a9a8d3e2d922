"""NVIDIA's Multi-Process Service, with which kernels of several processes run on a GPU at the same time."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

_PIPES = "CUDA_MPS_PIPE_DIRECTORY"
_USUAL_PIPES = "/tmp/nvidia-mps"  # noqa: S108 - where CUDA looks for the daemon


def mps_runs(environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether the daemon of the service has its pipe on this node; CUDA uses it by itself then.

    Args:
        environ: Environment of the processes that train.
    """
    return (Path(environ.get(_PIPES, _USUAL_PIPES)) / "control").exists()
