"""Triton kernels of local attention, each time in a process of its own: the interpreter is chosen before the import."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from models.local_attention.gpu import operator
from models.local_attention.gpu.operator import gpu_serves

CASES = Path(__file__).with_name("interpreted_kernels.py")
pytest.importorskip("triton")


def run_alone(*command: str, interpret: bool) -> str:
    surroundings = {**os.environ, "TRITON_INTERPRET": str(int(interpret)), "SPATIALSWEEP_KERNELS": "1"}
    done = subprocess.run(
        [sys.executable, *command], env=surroundings, capture_output=True, text=True, timeout=280, cwd=CASES.parents[3]
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_kernels_against_unfolded_windows() -> None:
    options = ["-q", "-x", "--noconftest", "-p", "no:cacheprovider", "-o", "addopts="]
    output = run_alone("-m", "pytest", *options, str(CASES), interpret=not torch.cuda.is_available())
    assert " passed" in output


COMPILE = """
import sys
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from models.local_attention.gpu import backward_kernels, forward_kernel

assert "torch._dynamo" not in sys.modules  # which takes a second of every start
constants = {"dim": 24, "dim_pad": 32, "rows": 4, "cols": 16, "heads_pad": 4, "rings_pad": 4, "sides_pad": 8}
constants |= {"masked": True, "before": False, "follows": True}
maps = ("q", "k", "v", "out", "grad", "grad_q", "grad_k", "grad_v")
for kernel in (forward_kernel.forward_kernel, backward_kernels.queries_kernel, backward_kernels.keys_kernel):
    first_number = kernel.arg_names.index("q_image")
    types = {name: "*bf16" if name in maps else "*fp32" for name in kernel.arg_names[:first_number]}
    types |= {name: "constexpr" if name in constants else "i32" for name in kernel.arg_names[first_number:]}
    given = {name: constants[name] for name in kernel.arg_names if name in constants}
    options = {"num_warps": 8, "enable_fp_fusion": True}
    program = compile(ASTSource(kernel, types, given), target=GPUTarget("cuda", 80, 32), options=options)
    assert "atom" not in program.asm["ptx"] and "red.global" not in program.asm["ptx"]
    print(kernel.__name__, len(program.asm["cubin"]))
"""


@pytest.mark.slow
def test_kernels_compile_for_a_gpu_without_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    lines = run_alone("-c", COMPILE, interpret=False).splitlines()
    assert [line.split()[0] for line in lines] == ["forward_kernel", "queries_kernel", "keys_kernel"]


def test_tensors_of_cpus_keep_their_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    x = torch.randn(1, 4, 3, 3)
    assert not gpu_serves(x, num_heads=1, side=3)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert gpu_serves(x, num_heads=1, side=3)
    monkeypatch.setenv("SPATIALSWEEP_KERNELS", "0")
    assert not gpu_serves(x, num_heads=1, side=3)


def test_a_map_without_a_device_does_not_decide_whether_kernels_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPATIALSWEEP_KERNELS", "1")
    monkeypatch.setattr(operator, "_works", lambda: pytest.fail("launched"))
    with FakeTensorMode():
        assert not gpu_serves(torch.empty(1, 4, 3, 3, device="cuda"), num_heads=1, side=3)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine on which the kernels fail")
def test_kernels_that_fail_are_no_error(caplog: pytest.LogCaptureFixture) -> None:
    operator._works.cache_clear()
    assert not operator._works() and not operator._works()
    (record,) = caplog.records
    assert "without its kernels for GPUs" in record.message
