"""Memory of a worker that trains a configuration, estimated without training it.

Weights, gradients and the optimiser's state are counted; activations are the tensors that autograd keeps of a forward
pass, which is computed on shapes alone. The formula, per worker:

    weights + gradients + optimiser state + average of the weights (where one is kept)
    + activations of one image x images of the worker at once + images held on the device

With `training.parallel: fsdp` each worker has its part of the gradients and of the optimiser's state.
With gradient checkpointing the activations are the inputs of all blocks and the inside of the largest one.

Not counted: the memory of Python, torch and its kernels themselves, about 0.5 GB on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor, nn

from models import ModelOptionError
from models.registry.operations import MetaOperations
from models.registry.shapes import on_shapes
from orchestrator.config.sections.training import TrainingConfig
from orchestrator.config.trial import TrialConfig
from orchestrator.data.datasets import DatasetFacts
from orchestrator.training.checkpoints.checkpoints import build_network, describe_network
from orchestrator.training.optimizer.optimizer import create_optimizer
from orchestrator.training.optimizer.recomputation import checkpoint_blocks
from orchestrator.training.tasks.registry import find_task

_PROBE_IMAGES = 2  # batch norms need more than one
_MOMENTUM = ("sgd", "momentum", "nesterov")  # optimisers that keep a velocity
_MOMENTS = {"adam": (2, 4), "adamw": (2, 4), "lamb": (2, 0), "lion": (1, 0)}
"""Moments that optimisers keep, and the bytes of the number of steps that they count for each parameter."""
_STATES = 2  # assumed tensors per parameter, as of Adam, for an optimiser whose step fails on `meta`


@dataclass(frozen=True)
class MemoryEstimate:
    """Estimated memory of one worker, in bytes.

    Args:
        weights: Bytes of parameters and running statistics.
        gradients: Bytes of the gradients.
        optimizer: Bytes of the optimiser's state.
        average: Bytes of the average of the weights; 0 where none is kept.
        activations: Bytes kept for the backward pass, over `images_at_once`.
        images: Bytes of the images held on the device.
        images_at_once: Number of images of one forward pass of the worker.
    """

    weights: int
    gradients: int
    optimizer: int
    average: int
    activations: int
    images: int
    images_at_once: int

    @property
    def total(self) -> int:
        """Sum of all parts, in bytes."""
        return self.weights + self.gradients + self.optimizer + self.average + self.activations + self.images


def estimate_memory(trial: TrialConfig, facts: DatasetFacts, workers: int) -> MemoryEstimate:
    """Estimate the memory of one worker.

    Args:
        trial: Configuration of the trial.
        facts: Facts of the dataset.
        workers: Number of workers of the trial.
    """
    training = trial.training
    share = -(-training.batch_size // workers)
    at_once = -(-share // training.accumulation_steps)
    network = _shell_on_meta(trial, facts)
    parameters = sum(map(_bytes, network.parameters()))
    weights = parameters + sum(map(_bytes, network.buffers()))
    per_image = _activations_per_image(network, trial, facts)
    if training.precision != "float32":
        per_image //= 2
    # A divided network is whole in evaluations, and has no gradients then.
    parts = workers if training.parallel == "fsdp" else 1
    held = 0 if facts.files else facts.train_images * facts.in_chans * facts.image_size**2
    return MemoryEstimate(
        weights=weights,
        gradients=-(-parameters // parts),
        optimizer=-(-_optimizer_bytes(network, trial.training, parameters) // parts),
        average=weights if training.ema_decay is not None else 0,
        activations=per_image * at_once,
        images=held,
        images_at_once=at_once,
    )


def _shell_on_meta(trial: TrialConfig, facts: DatasetFacts) -> nn.Module:
    try:
        return _shell(trial, facts)
    except ModelOptionError:  # a network of timm, or of a file, may read values, which `meta` does not have
        return _shell(trial, facts, "cpu").to("meta")


def _shell(trial: TrialConfig, facts: DatasetFacts, device: str = "meta") -> nn.Module:
    """Build the network; on `meta` its tensors have shapes and no values."""
    with on_shapes() if device == "meta" else torch.device(device):
        network = build_network(_description(trial, facts))
    if trial.training.gradient_checkpointing:
        checkpoint_blocks(network)
    return network


def _description(trial: TrialConfig, facts: DatasetFacts) -> dict[str, Any]:
    return describe_network(
        trial.model,
        num_classes=facts.num_classes,
        in_chans=facts.in_chans,
        image_size=facts.image_size,
        task=trial.task,
    )


def _activations_per_image(shell: nn.Module, trial: TrialConfig, facts: DatasetFacts) -> int:
    try:
        return _saved_bytes(shell, trial, facts, "meta")
    except (RuntimeError, TypeError):  # the network reads values, which `meta` does not have
        return _saved_bytes(_shell(trial, facts, "cpu"), trial, facts, "cpu")


def _saved_bytes(network: nn.Module, trial: TrialConfig, facts: DatasetFacts, device: str) -> int:
    """Count the bytes that autograd keeps per image, each piece of memory once, without the weights."""
    known = {tensor.untyped_storage()._cdata for tensor in (*network.parameters(), *network.buffers())}
    kept: dict[int, Tensor] = {}  # alive, so that no address is used twice
    insides = [0]  # of blocks that are computed again

    def note(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage()._cdata not in known:
            kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    def block(function: Callable[..., Any], *inputs: Any, **_: Any) -> Any:
        """Keep the inputs of a block in place of torch's checkpoint, and count what is kept while it is computed."""
        for tensor in filter(torch.is_tensor, inputs):
            note(tensor)
        inside: dict[int, Tensor] = {}
        with _noted(lambda tensor: inside.setdefault(tensor.untyped_storage()._cdata, tensor)):
            outputs = function(*inputs)
        insides.append(_held({key: inside[key] for key in inside.keys() - known - kept.keys()}))
        return outputs

    side, task = trial.training.crop_px or facts.image_size, find_task(trial.task)
    with MetaOperations():
        images, targets = task.example_batch(
            _description(trial, facts), trial.training, images=_PROBE_IMAGES, side=side, device=torch.device(device)
        )
    with MetaOperations(), _noted(note), _checkpoints_as(block):
        outputs = task.forward_on_shapes(network.train(), images, targets)
    del outputs
    return (_held(kept) + max(insides)) // _PROBE_IMAGES


def _noted(note: Callable[[Tensor], Tensor]) -> Any:
    """Return the context in which autograd passes every tensor that it keeps to a function."""
    return torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)


@contextmanager
def _checkpoints_as(block: Callable[..., Any]) -> Iterator[None]:
    """Call a function wherever a network calls torch's `checkpoint`."""
    usual = torch.utils.checkpoint.checkpoint
    torch.utils.checkpoint.checkpoint = block
    try:
        yield
    finally:
        torch.utils.checkpoint.checkpoint = usual


def _held(tensors: Mapping[int, Tensor]) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors.values())


def _optimizer_bytes(network: nn.Module, training: TrainingConfig, parameters: int) -> int:
    """Return the bytes of the optimiser's state after a first step."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if training.optimizer in _MOMENTUM and training.momentum:
        return sum(map(_bytes, trained))
    if training.optimizer in _MOMENTS:
        moments, step_bytes = _MOMENTS[training.optimizer]
        return moments * sum(map(_bytes, trained)) + step_bytes * len(trained)
    return _bytes_after_step(network, training, parameters)


def _bytes_after_step(network: nn.Module, training: TrainingConfig, parameters: int) -> int:
    """Count the bytes of the optimiser's state after a first step, for which torch imports its compiler."""
    optimizer = create_optimizer(network, training)
    for parameter in network.parameters():
        parameter.grad = torch.empty_like(parameter)
    try:
        optimizer.step()
    except RuntimeError:  # the optimiser reads values, which `meta` does not have
        return _STATES * parameters
    entries = (entry for state in optimizer.state.values() for entry in state.values())
    return sum(_bytes(entry) for entry in entries if isinstance(entry, Tensor))


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
