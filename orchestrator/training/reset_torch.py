"""Reset of torch between two trials of a process, so that the next one computes as in a new process."""

from __future__ import annotations

import gc
import sys

import torch


def reset_torch() -> None:
    """Reset torch's process-wide switches to their values after an import, and free unused memory.

    One differs: cuDNN is restricted to deterministic algorithms, since a trial must be reproducible to the last bit.
    Random states are left alone: a trial seeds them at each of its steps.
    """
    gc.collect()
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)
    torch.set_grad_enabled(True)
    torch.set_anomaly_enabled(False)
    torch.use_deterministic_algorithms(False)
    torch.set_float32_matmul_precision("highest")
    torch.set_flush_denormal(False)
    torch.clear_autocast_cache()
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = True
    if "torch._dynamo" in sys.modules:
        # Code compiled for the shapes of one trial would be used by the next, which rounds differently in its own.
        torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
