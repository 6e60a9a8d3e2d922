"""File formats of exported networks: writers, and loaders that run a file for the check."""

from __future__ import annotations

import importlib.util
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import ExportError

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["FORMATS", "Detections", "DetectorProgram", "Format", "format_named"]

Program = Callable[["Tensor"], "Tensor"]
"""Function from images (B, C, H, W) to logits (B, num_classes)."""

Detections = Sequence["Tensor"]
"""Boxes (N, 4), labels (N,), scores (N,) and, with masks, masks (N, 1, H, W) of one image."""

DetectorProgram = Callable[["Tensor"], Detections]
"""Function from an image (1, C, H, W) to its detections."""

_FACTS = "spatialsweep"  # key of the metadata in a file


class Format(ABC):
    """File format.

    Attributes:
        name: Name on the command line.
        suffix: Suffix of the files.
        needs: Packages that the format needs.
        extra: Optional dependency of SpatialSweep that installs them.
    """

    name: str
    suffix: str
    needs: tuple[str, ...] = ()
    extra: str = ""

    def require_packages(self) -> None:
        """Check that the packages of the format are installed.

        Raises:
            ExportError: A package is missing; the message names it and the remedy.
        """
        missing = [name for name in self.needs if importlib.util.find_spec(name) is None]
        if missing:
            remedy = f"pip install 'spatialsweep[{self.extra}]'"
            raise ExportError(f"--format {self.name}: needs {', '.join(missing)}. Install them: {remedy}")

    @abstractmethod
    def write(
        self, network: nn.Module, images: Tensor, path: Path, *, any_batch: bool, facts: Mapping[str, Any]
    ) -> None:
        """Write a network to a file.

        Args:
            network: Network in evaluation mode.
            images: Example input of more than one image.
            path: Path of the file.
            any_batch: Makes the batch size dynamic; else it is that of the example.
            facts: Metadata of the file, which JSON can hold.
        """

    @abstractmethod
    def load(self, path: Path) -> Program:
        """Load a file as a program, which runs on one thread unless torch's thread pool runs it."""

    def write_detector(
        self, network: nn.Module, image: Tensor, path: Path, *, names: Sequence[str], facts: Mapping[str, Any]
    ) -> None:
        """Write a detector for one image of one size to a file.

        Args:
            network: Detector in evaluation mode, whose outputs are tensors, see `DetectorOutputs`.
            image: Example image, (1, C, H, W).
            path: Path of the file.
            names: Names of the outputs.
            facts: Metadata of the file, which JSON can hold.

        Raises:
            ExportError: The format does not take detectors.
        """
        del network, image, path, names, facts
        raise ExportError(f"--format {self.name}: detectors are written as {Onnx.name} alone; use --format {Onnx.name}")

    def load_detector(self, path: Path) -> DetectorProgram:
        """Load a file of `write_detector` as a program, which runs on one thread.

        Raises:
            ExportError: The format does not take detectors.
        """
        raise ExportError(f"{path}: a file of --format {self.name} holds no detector")


class Onnx(Format):
    """Format ONNX with the weights in the file, run by onnxruntime."""

    name, suffix, extra = "onnx", ".onnx", "onnx"
    needs = ("onnx", "onnxscript", "onnxruntime")
    opset = 23  # the newest that torch writes
    traced_opset = 20  # the newest that torch writes for traced networks

    def write(
        self, network: nn.Module, images: Tensor, path: Path, *, any_batch: bool, facts: Mapping[str, Any]
    ) -> None:
        """Write a network to a file; see `Format.write`."""
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
            node.metadata_props.clear()  # source positions on this machine, half of a small file
        program.save(path)

    def load(self, path: Path) -> Program:
        """Load a file as a program; see `Format.load`."""
        import torch

        session = self._session(path)

        def run(images: Tensor) -> Tensor:
            return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])

        return run

    def write_detector(
        self, network: nn.Module, image: Tensor, path: Path, *, names: Sequence[str], facts: Mapping[str, Any]
    ) -> None:
        """Write a detector for one image of one size to a file; see `Format.write_detector`."""
        import onnx
        import torch

        torch.onnx.export(
            network,
            (image,),
            path,
            dynamo=False,  # the newer exporter does not trace the choice of boxes
            opset_version=self.traced_opset,
            input_names=["image"],
            output_names=list(names),
        )
        written = onnx.load(path)
        onnx.helper.set_model_props(written, {_FACTS: json.dumps(facts)})
        onnx.save(written, path)

    def load_detector(self, path: Path) -> DetectorProgram:
        """Load a file of `write_detector` as a program; see `Format.load_detector`."""
        import torch

        session = self._session(path)

        def run(image: Tensor) -> list[Tensor]:
            return [torch.from_numpy(each) for each in session.run(None, {"image": image.numpy()})]

        return run

    def _session(self, path: Path) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3  # errors; the shapes that loops of traced networks announce are warnings
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


class TorchExport(Format):
    """Format of torch.export, which `torch.export.load` reads without the network's own code."""

    name, suffix = "torch-export", ".pt2"

    def write(
        self, network: nn.Module, images: Tensor, path: Path, *, any_batch: bool, facts: Mapping[str, Any]
    ) -> None:
        """Write a network to a file; see `Format.write`."""
        import torch

        shapes = ({0: torch.export.Dim("batch")},) if any_batch else None
        program = torch.export.export(network, (images,), dynamic_shapes=shapes)
        for node in program.graph.nodes:
            for key in ("stack_trace", "nn_module_stack", "source_fn_stack", "from_node"):
                node.meta.pop(key, None)
        program.example_inputs = None  # the images, with all others that share their storage
        with path.open("wb") as file:  # given a path, the archive contains its name
            torch.export.save(program, file, extra_files={f"{_FACTS}.json": json.dumps(facts)})

    def load(self, path: Path) -> Program:
        """Load a file as a program, which runs on the process's torch threads; see `Format.load`."""
        import torch

        module = torch.export.load(path).module()

        def run(images: Tensor) -> Tensor:
            with torch.no_grad():
                logits: Tensor = module(images)
            return logits

        return run


FORMATS: Mapping[str, Format] = {form.name: form for form in (Onnx(), TorchExport())}
"""Formats by name."""


def format_named(name: str) -> Format:
    """Return a format by name and check that its packages are installed.

    Raises:
        ExportError: There is no such format, or a package is missing.
    """
    if name not in FORMATS:
        raise ExportError(f"--format {name}: use {' or '.join(FORMATS)}")
    FORMATS[name].require_packages()
    return FORMATS[name]
