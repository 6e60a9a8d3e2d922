"""Import of timm without torch's compiler, which is complete when it is used."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]

PROGRAM = """
import sys
import torch

disable = torch.compiler.disable
import models, timm.optim, torchvision

late = ("torch._dynamo", "torch.distributed.tensor", "sympy", "triton")
assert not any(name.startswith(late) for name in sys.modules)
assert torch.compiler.disable is disable
assert timm.optim.kron.has_dynamo and timm.layers._fx.has_fx_feature_extraction

boxes = [torch.tensor([[0.0, 0.0, 4.0, 4.0]])]
torch.use_deterministic_algorithms(True)
pooled = torchvision.ops.roi_align(torch.ones(1, 1, 8, 8), boxes, 2)
assert torch.equal(pooled, torch.ones(1, 1, 2, 2))
double = torch.compile(lambda x: 2 * x, backend="eager", fullgraph=True)
assert double(torch.ones(2)).tolist() == [2.0, 2.0]

import torch._dynamo.config as settings
import torch._dynamo.utils as utilities

assert settings.recompile_limit == 1_000_000  # as timm's optimiser kron sets it
assert utilities.__file__ and settings.__loader__.__class__.__name__ == "SourceFileLoader"
assert torchvision.ops.roi_align.__globals__["is_compile_supported"]("cpu") is utilities.is_compile_supported("cpu")
assert not any("import_of_timm" in type(finder).__module__ for finder in sys.meta_path)

from timm.optim import muon

weight = torch.tensor([[3.0, 1.0], [1.0, 2.0]])
assert muon.has_dtensor and not isinstance(weight, muon.DTensor)
import torch.distributed as dist

dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
from torch.distributed.tensor import DTensor, distribute_tensor, init_device_mesh

found = distribute_tensor(weight, init_device_mesh("cpu", (1,)))
assert isinstance(found, muon.DTensor) and not isinstance(weight, muon.DTensor)
assert isinstance(muon.zeropower_via_newtonschulz(found, 1, [(3.4445, -4.775, 2.0315)]), DTensor)
"""

LOADED_BEFORE = """
import torch._dynamo.utils
import torch
compiler = torch._dynamo
import models
assert torch._dynamo is compiler and torch._dynamo.config.recompile_limit == 1_000_000
"""


def test_the_compiler_is_not_imported_and_works_once_it_is_used() -> None:
    for program in (PROGRAM, LOADED_BEFORE):
        done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
