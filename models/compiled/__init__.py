"""Kernels that are compiled on first use, for eager tensors on a CPU."""
