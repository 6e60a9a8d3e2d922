"""Takes back what a trial may have left in its process, so that the next one computes as in a new process."""

from __future__ import annotations

import gc
import sys

import torch


def reset_torch() -> None:
    """Sets torch's process-wide switches to what they are after an import, and frees what nobody holds.

    One differs: cuDNN is held to deterministic algorithms, as a trial is to repeat itself to the last bit. Random
    states are not among them: a trial sets them at each of its steps.
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
        # Code compiled for the shapes of one trial would serve the next, with other roundings than its own.
        torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
