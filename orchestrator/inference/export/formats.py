"""The formats a network is exported to: how each is written, and how a file of it is run."""

from __future__ import annotations

import importlib.util
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import ExportError

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["FORMATS", "Format", "format_named"]

Program = Callable[["Tensor"], "Tensor"]
"""Images (B, C, H, W) to logits (B, num_classes)."""

_FACTS = "spatialsweep"  # under this key a file tells what it was made of


class Format(ABC):
    """A file format.

    Args:
        name: For the command line.
        suffix: Of its files.
        needs: Packages besides ours.
        extra: Our extra that brings them.
    """

    name: str
    suffix: str
    needs: tuple[str, ...] = ()
    extra: str = ""

    def require_packages(self) -> None:
        """Raises where a package is missing.

        Raises:
            ExportError: Says which, and what to install.
        """
        missing = [name for name in self.needs if importlib.util.find_spec(name) is None]
        if missing:
            remedy = f"pip install 'spatialsweep[{self.extra}]'"
            raise ExportError(f"--format {self.name}: needs {', '.join(missing)}. Install them: {remedy}")

    @abstractmethod
    def write(
        self, network: nn.Module, images: Tensor, path: Path, *, any_batch: bool, facts: Mapping[str, Any]
    ) -> None:
        """Writes a network in evaluation mode.

        Args:
            network: The network.
            images: An example, of more than one image.
            path: The file.
            any_batch: Whether it is to take any number of images; else the number of the example.
            facts: What the file tells of itself, as JSON can hold it.
        """

    @abstractmethod
    def load(self, path: Path) -> Program:
        """Reads a file back, to be run on one thread, as far as it is the program's own."""


class Onnx(Format):
    """ONNX with its weights in the file, run by onnxruntime."""

    name, suffix, extra = "onnx", ".onnx", "onnx"
    needs = ("onnx", "onnxscript", "onnxruntime")
    opset = 23  # the newest that torch writes

    def write(
        self, network: nn.Module, images: Tensor, path: Path, *, any_batch: bool, facts: Mapping[str, Any]
    ) -> None:
        """See `Format.write`."""
        import torch

        program = torch.onnx.export(
            network,
            (images,),
            dynamo=True,
            opset_version=self.opset,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},) if any_batch else None,
            verbose=False,
        )
        assert program is not None
        program.model.metadata_props[_FACTS] = json.dumps(facts)
        for node in program.model.graph.all_nodes():
            node.metadata_props.clear()  # where in this machine's files it comes from: half of a small file
        program.save(path)

    def load(self, path: Path) -> Program:
        """See `Format.load`."""
        import onnxruntime
        import torch

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

        def run(images: Tensor) -> Tensor:
            return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])

        return run


class TorchExport(Format):
    """A program of torch.export, read by `torch.export.load` without the network's own code."""

    name, suffix = "torch-export", ".pt2"

    def write(
        self, network: nn.Module, images: Tensor, path: Path, *, any_batch: bool, facts: Mapping[str, Any]
    ) -> None:
        """See `Format.write`."""
        import torch

        shapes = ({0: torch.export.Dim("batch")},) if any_batch else None
        program = torch.export.export(network, (images,), dynamic_shapes=shapes)
        for node in program.graph.nodes:
            for told in ("stack_trace", "nn_module_stack", "source_fn_stack", "from_node"):
                node.meta.pop(told, None)
        torch.export.save(program, path, extra_files={f"{_FACTS}.json": json.dumps(facts)})

    def load(self, path: Path) -> Program:
        """See `Format.load`; torch's threads are those of the process."""
        import torch

        module = torch.export.load(path).module()

        def run(images: Tensor) -> Tensor:
            with torch.no_grad():
                logits: Tensor = module(images)
            return logits

        return run


FORMATS: Mapping[str, Format] = {form.name: form for form in (Onnx(), TorchExport())}
"""All formats by name."""


def format_named(name: str) -> Format:
    """A format whose packages are installed.

    Raises:
        ExportError: There is no such format, or a package is missing.
    """
    if name not in FORMATS:
        raise ExportError(f"--format {name}: use {' or '.join(FORMATS)}")
    FORMATS[name].require_packages()
    return FORMATS[name]
