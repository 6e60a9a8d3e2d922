"""Compiled kernel of three lines."""

from pathlib import Path

from models.compiled.build import Kernel

SOURCE = """
#include <cstdint>
extern "C" int spatialsweep_probe() { return PROBE; }
extern "C" int answer(const int64_t*, const void* const*, void* const*, int64_t) { return 42; }
"""


def tiny_kernel(folder: Path, *, probe: str = "0") -> Kernel:
    """Write the source of a kernel whose function `answer` returns 42.

    Args:
        folder: Folder of the source.
        probe: Expression in C++ that its probe returns.
    """
    source = folder / "tiny.cpp"
    source.write_text(SOURCE.replace("PROBE", probe), encoding="utf-8")
    return Kernel(name="tiny", source=source, headers=(), functions=("answer",))
