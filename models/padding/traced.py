"""State of the older tracer of torch, with which detectors are written to ONNX."""

import torch

__all__ = ["is_traced_to_file"]


def is_traced_to_file() -> bool:
    """Return whether operations are being recorded for a file, by `torch.jit`; not by a compiler or `torch.export`."""
    return not torch.compiler.is_compiling() and torch._C._get_tracing_state() is not None
