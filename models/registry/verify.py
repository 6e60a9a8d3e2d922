"""Comparison of our networks with reference outputs of the authors' code.

Usage: `python -m models.registry.verify FIXTURE.json ...`. A fixture is a pair of files. The json names the family,
the constructor's arguments and every entry of the authors' state dict; the npz beside it holds the outputs.
Weights are not stored: each is drawn from its own key. They are loaded through `load_authors_checkpoint`, and
outputs are compared in float64 and in float32, relative to the largest value of each. The exit status is 1
when one is beyond its tolerance.
"""

import argparse
import dataclasses
import json
import math
import sys
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.registry.authors.loading import family_of, from_authors, load_authors_checkpoint

__all__ = ["DTYPES", "Comparison", "Fixture", "compare", "draw_weight", "main"]

Array: TypeAlias = NDArray[Any]

DTYPES = (torch.float64, torch.float32)
FLOAT64_TOLERANCE = 1e-6
GRADIENT_TOLERANCE = 2e-2  # float32: a ReLU within rounding of zero may switch
STATS = ("mean", "std", "norm")
BUFFER_KINDS = ("constructed", "running_mean", "running_var")


@dataclasses.dataclass(frozen=True)
class Fixture:
    """Description and reference outputs of one case.

    Args:
        case: Family and name of the case.
        about: Content of the json.
        arrays: Content of the npz.
    """

    case: str
    about: Mapping[str, Any]
    arrays: Mapping[str, Array]

    @classmethod
    def read(cls, path: Path) -> "Fixture":
        """Read the json and the npz of the same name beside it."""
        about = json.loads(path.read_text(encoding="utf-8"))
        with np.load(path.with_suffix(".npz")) as arrays:
            return cls(f"{about['family']}/{about['case']}", about, dict(arrays))

    def draw(self, offset: int, shape: Sequence[int]) -> Array:
        """Draw standard normal numbers from the generator `seed + offset`, as float32."""
        generator = np.random.Generator(np.random.PCG64(self.about["seed"] + offset))
        return generator.standard_normal(tuple(shape)).astype(np.float32)

    def state_dict(self) -> dict[str, Tensor]:
        """Draw every entry of the authors' state dict again."""
        state = {}
        for key, shape, dtype, kind in self.about["tensors"]:
            if kind == "constructed":
                value = self.arrays[key] if key in self.arrays else _flatten_index(key, shape)
            else:
                value = draw_weight(key, self.about["seed"], tuple(shape), kind).astype(np.float32)
            state[key] = torch.from_numpy(np.array(value)).to(getattr(torch, dtype))
        return state

    def network(self, dtype: torch.dtype) -> nn.Module:
        """Build our network with the weights of the fixture, in evaluation mode."""
        network = from_authors(self.about["family"], self.about["options"])
        return load_authors_checkpoint(network, self.state_dict()).to(dtype).eval()

    def dropped_parameters(self, network: nn.Module) -> int:
        """Count the elements of authors' parameters without effect on the result, which ours does not have."""
        family = family_of(network)
        return sum(
            math.prod(shape)
            for key, shape, _, kind in self.about["tensors"]
            if kind not in BUFFER_KINDS and family.takes_no_part(key, network)
        )


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Difference of one output from the reference.

    Args:
        output: Name of the output.
        dtype: Type in which it was computed.
        error: Largest difference, relative to the largest value of the reference.
        tolerance: Largest error that passes, likewise relative.
    """

    output: str
    dtype: str
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """True when the error is finite and within the tolerance."""
        return self.error <= self.tolerance


def draw_weight(key: str, seed: int, shape: tuple[int, ...], kind: str) -> Array:
    """Draw one entry of a state dict by the rule of its kind, in float64.

    Raises:
        ValueError: There is no such kind.
    """
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode()) + seed))
    if kind == "span":
        return generator.uniform(0.1, 0.9, shape)
    if kind == "span_small":
        return generator.uniform(0.0, 0.2, shape)
    normal: Array = np.asarray(generator.standard_normal(shape))
    rules = {
        "normal_fan_in": lambda n: n / math.sqrt(math.prod(shape[1:])),
        "bias": lambda n: 0.1 * n,
        "norm_weight": lambda n: 1 + 0.1 * n,
        "running_mean": lambda n: 0.1 * n,
        "running_var": lambda n: 1 + 0.2 * np.abs(n),
        "lsas_w": lambda n: 0.5 + 0.1 * n,
        "lsas_b": lambda n: -0.5 + 0.1 * n,
        "rel": lambda n: 0.1 * n,
    }
    if kind not in rules:
        raise ValueError(f"{key}: unknown kind {kind!r}; known are {sorted([*rules, 'span', 'span_small'])}")
    drawn: Array = rules[kind](normal)
    return drawn


def _flatten_index(key: str, shape: Sequence[int]) -> Array:
    """Compute the one buffer that a fixture leaves out: distance of pixels on the flattened map."""
    if not key.endswith("flatten_index"):
        raise ValueError(f"{key}: its value is neither in the npz nor known by name")
    pixels = math.isqrt(math.prod(shape))
    i, j = np.divmod(np.arange(pixels * pixels), pixels)
    return (i - j + pixels - 1).reshape(tuple(shape))


def _gradient(tensor: Tensor) -> Tensor:
    assert tensor.grad is not None, "every parameter takes part in the result"
    return tensor.grad


def _outputs(fixture: Fixture, dtype: torch.dtype) -> dict[str, Array]:
    """Compute our side of everything the fixture holds, under its names, as float64."""
    network = fixture.network(dtype)
    table = family_of(network).entries(network)
    x = torch.from_numpy(fixture.draw(1, fixture.about["input_shape"])).to(dtype).requires_grad_()
    logits = network(x)
    probe = torch.from_numpy(fixture.draw(2, logits.shape)).to(dtype)
    (logits * probe).sum().backward()
    parameters = dict(network.named_parameters())
    found = {"logits": logits.detach(), "input_grad": _gradient(x)}
    for name, key in fixture.about["grads"].items():
        found[name] = table[key].to_authors(_gradient(parameters[table[key].ours]))
    with torch.no_grad():
        found["train_logits"] = fixture.network(dtype).train()(x)
    return {name: tensor.double().numpy() for name, tensor in found.items()}


def _errors(fixture: Fixture, ours: Mapping[str, Array]) -> dict[str, float]:
    """Return the largest difference of each output, relative to the largest value of the reference."""
    errors = {}
    for name, found in ours.items():
        scale = fixture.about["max_abs"][name] or 1.0
        if name in fixture.arrays:
            if found.shape != fixture.arrays[name].shape:
                raise ValueError(f"{name}: shape {found.shape}, the reference has {fixture.arrays[name].shape}")
            errors[name] = float(np.abs(found - fixture.arrays[name]).max()) / scale
        else:
            errors |= _summary_errors(fixture, name, found, scale)
    return errors


def _summary_errors(fixture: Fixture, name: str, found: Array, scale: float) -> dict[str, float]:
    """Return the differences of an output of which the fixture holds the first values and statistics."""
    head = fixture.arrays[f"{name}_head"].ravel()
    stats = fixture.arrays.get(f"{name}_stats")
    reference = fixture.about[f"{name}_stats"] if stats is None else dict(zip(STATS, stats, strict=True))
    norm = float(np.linalg.norm(found)) or 1.0
    return {
        f"{name}_head": float(np.abs(found.ravel()[: head.size] - head).max()) / scale,
        f"{name}_mean": abs(float(found.mean()) - reference["mean"]) / scale,
        f"{name}_std": abs(float(found.std()) - reference["std"]) / reference["std"],
        f"{name}_norm": abs(norm - reference["norm"]) / reference["norm"],
    }


def _float32_tolerance(fixture: Fixture, output: str) -> float:
    if output not in ("logits", "train_logits"):
        return GRADIENT_TOLERANCE
    return float(10 * fixture.about["float32_error"][output] / fixture.about["max_abs"][output]) + FLOAT64_TOLERANCE


def compare(fixture: Fixture, *, dtypes: Sequence[torch.dtype] = DTYPES) -> list[Comparison]:
    """Compare every output of a fixture in the given types, and the number of parameters."""
    rows = []
    for dtype in dtypes:
        for output, error in _errors(fixture, _outputs(fixture, dtype)).items():
            tolerance = FLOAT64_TOLERANCE if dtype is torch.float64 else _float32_tolerance(fixture, output)
            rows.append(Comparison(output, str(dtype).removeprefix("torch."), error, tolerance))
    network = from_authors(fixture.about["family"], fixture.about["options"])
    counted = sum(parameter.numel() for parameter in network.parameters())
    difference = counted + fixture.dropped_parameters(network) - fixture.about["num_parameters"]
    rows.append(Comparison("num_parameters", "exact", abs(difference), 0.0))
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare each fixture named on the command line, print a line per output, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m models.registry.verify",
        description="Compare our networks with reference outputs of the authors' code.",
    )
    parser.add_argument(
        "fixtures", nargs="+", type=Path, metavar="FIXTURE.json", help="fixtures, each with its npz beside it"
    )
    status = 0
    for path in parser.parse_args(arguments).fixtures:
        try:
            fixture = Fixture.read(path)
            rows = compare(fixture)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            sys.stderr.write(f"{path}: {type(error).__name__}: {error}\n")
            status = 1
            continue
        sys.stdout.write(f"{fixture.case}\n")
        for row in rows:
            verdict = "ok" if row.passed else "BEYOND TOLERANCE"
            line = f"  {row.output:<18} {row.dtype:<8} {row.error:9.2e}  of {row.tolerance:9.2e}  {verdict}"
            sys.stdout.write(line + "\n")
            status = status if row.passed else 1
    return status


if __name__ == "__main__":
    sys.exit(main())
