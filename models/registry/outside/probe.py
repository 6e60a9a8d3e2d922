"""Trial of a network that this package does not register: does it build, and what does it return for one image."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from models.common.options import ImageShape, ModelOptionError
from models.registry.counting import count_macs, depends_on_values

__all__ = ["Probe", "probe"]


@dataclass(frozen=True)
class Probe:
    """Result of a trial.

    Args:
        fault: Reason why the network cannot be used, on one line; empty where it can.
        params: Learned numbers.
        macs: Multiply-accumulates of one image.
    """

    fault: str = ""
    params: int = 0
    macs: int = 0


class _UnusableError(Exception):
    """Network that is built and cannot be trained."""


def probe(make: Callable[[], nn.Module], image: ImageShape, *, num_classes: int, in_chans: int) -> Probe:
    """Build a network, apply it to one image and count it: on shapes alone where it reads no values, else on the CPU.

    Args:
        make: Function that builds the network.
        image: Shape of the images.
        num_classes: Outputs it has to have.
        in_chans: Channels of the images.

    Returns:
        The costs, or the fault; random numbers are drawn from a generator of its own.
    """
    size = (in_chans, image.height, image.width)
    fault = ""
    for device in ("meta", "cpu"):
        try:
            with torch.random.fork_rng(devices=[]):
                return _tried(make, size, num_classes, device)
        except _UnusableError as error:
            return Probe(str(error))
        except ModelOptionError as error:
            cause = error.__cause__
            fault = "; ".join(problem.rule for problem in error.problems) if cause is None else _reason(cause)
        except Exception as error:  # of code that is not ours
            fault = _reason(error)
        if "meta" not in fault.lower():  # values, which `meta` does not have, would change nothing
            break
    return Probe(fault)


def _tried(make: Callable[[], nn.Module], size: tuple[int, int, int], num_classes: int, device: str) -> Probe:
    with torch.device(device):
        network = make().eval()
    if depends_on_values(network):
        network = make().eval()
    if any(is_lazy(parameter) for parameter in network.parameters()):
        raise _UnusableError(
            "it has lazy layers, whose parameters do not exist before the first image; give their sizes"
        )
    params = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    if not params:
        raise _UnusableError("it has no parameters to train")
    returned: list[object] = []
    handle = network.register_forward_hook(lambda _module, _inputs, output: returned.append(output))
    with torch.device(device), _without_fused_attention():
        macs = count_macs(network, size, device=device)
    handle.remove()
    output = returned[-1]
    if not isinstance(output, Tensor):
        raise _UnusableError(
            f"it returns a {type(output).__name__} for one image, not logits of shape (1, {num_classes})"
        )
    if tuple(output.shape) != (1, num_classes):
        raise _UnusableError(f"it returns {tuple(output.shape)} for one image, not logits of shape (1, {num_classes})")
    return Probe(params=sum(parameter.numel() for parameter in network.parameters()), macs=macs)


@contextlib.contextmanager
def _without_fused_attention() -> Iterator[None]:
    """Disable the fused form of torch's own attention layers, whose products cannot be counted."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
