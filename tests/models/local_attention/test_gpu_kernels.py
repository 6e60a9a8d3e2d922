"""Triton kernels of local attention, in a process of their own: the interpreter is chosen before Triton is imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from models.local_attention.gpu.operator import gpu_serves

CASES = Path(__file__).with_name("interpreted_kernels.py")
pytest.importorskip("triton")


@pytest.mark.slow
def test_kernels_against_unfolded_windows() -> None:
    surroundings = {**os.environ, "TRITON_INTERPRET": "0" if torch.cuda.is_available() else "1"}
    options = ["-q", "-x", "--noconftest", "-p", "no:cacheprovider", "-o", "addopts=", "-W", "error:::models"]
    command = [sys.executable, "-m", "pytest", *options, str(CASES)]
    done = subprocess.run(command, env=surroundings, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


def test_tensors_of_cpus_keep_their_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert not gpu_serves(torch.randn(1, 4, 3, 3), num_heads=1, side=3)
