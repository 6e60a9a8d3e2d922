"""Batches as trees: tensors in lists, tuples and dictionaries, nested in any way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

__all__ = ["device_type", "in_float32", "in_memory_format", "map_tensors", "split_tree", "to_device"]


def map_tensors(function: Callable[[Tensor], Any], tree: Any) -> Any:
    """Return a tree with every tensor replaced by the result of a function; other leaves stay."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, dict):
        return {key: map_tensors(function, value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [map_tensors(function, value) for value in tree]
    if isinstance(tree, tuple):
        return _tuple_like(tree, [map_tensors(function, value) for value in tree])
    return tree


def split_tree(tree: Any, parts: int) -> Sequence[Any]:
    """Split a batch into parts of consecutive samples, as `torch.Tensor.tensor_split` does.

    Args:
        tree: Tensor whose first dimension is the samples, list with an item for each sample, or dictionary or tuple of
            these.
        parts: Number of parts.
    """
    if isinstance(tree, Tensor):
        return tree.tensor_split(parts)
    if isinstance(tree, list):
        least, more = divmod(len(tree), parts)
        cuts = [part * least + min(part, more) for part in range(parts + 1)]
        return [tree[first:last] for first, last in pairwise(cuts)]
    if isinstance(tree, dict):
        pieces = {key: split_tree(value, parts) for key, value in tree.items()}
        return [{key: piece[part] for key, piece in pieces.items()} for part in range(parts)]
    if isinstance(tree, tuple):
        members = [split_tree(value, parts) for value in tree]
        return [_tuple_like(tree, [member[part] for member in members]) for part in range(parts)]
    raise TypeError(f"a batch is of tensors, lists, tuples and dictionaries, not of {type(tree).__name__}")


def _tuple_like(tree: tuple[Any, ...], values: Sequence[Any]) -> tuple[Any, ...]:
    """Return a tuple, or a named tuple of the class of the tree."""
    return type(tree)(*values) if hasattr(tree, "_fields") else tuple(values)


def device_type(tree: Any) -> str:
    """Return torch's name of the type of the device of a batch, such as `cuda`.

    Args:
        tree: Batch with at least one tensor, all of them on one device.
    """
    found: list[str] = []
    map_tensors(lambda tensor: found.append(tensor.device.type), tree)
    return found[0]


def to_device(tree: Any, device: torch.device) -> Any:
    """Move all tensors of a tree to a device."""
    return map_tensors(lambda tensor: tensor.to(device, non_blocking=True), tree)


def in_float32(tree: Any) -> Any:
    """Convert the floating-point tensors of a tree to float32."""
    if isinstance(tree, Tensor):
        return tree.float()
    return map_tensors(lambda tensor: tensor.float() if tensor.is_floating_point() else tensor, tree)


def in_memory_format(images: Any, order: torch.memory_format) -> Any:
    """Return images in a memory format, which only tensors of four dimensions have."""
    if isinstance(images, Tensor):
        return images.contiguous(memory_format=order)
    return map_tensors(lambda image: image.contiguous(memory_format=order) if image.ndim == 4 else image, images)
