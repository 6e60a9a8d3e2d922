"""Exchange of evaluated images between ranks: the rank that counts an image, and bytes for the first rank."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist

from orchestrator.errors import DataError
from orchestrator.training.workers import Workers

__all__ = ["add_digest", "counted_images", "gather_bytes", "image_number"]

_ROUND = 2**26  # bytes that the first rank receives at once, from all ranks together


def image_number(target: Mapping[str, Any]) -> int:
    """Return the number by which an image is known.

    Args:
        target: Annotations of the image.

    Raises:
        DataError: The target has no `image_id`.
    """
    if "image_id" not in target:
        raise DataError("target.image_id: missing; an evaluation counts every image once and knows it by this number")
    return int(target["image_id"])


def add_digest(digests: dict[int, int], number: int, digest: int) -> bool:
    """Add an image to a table of checksums and return True, or False where the table has it.

    Args:
        digests: Checksums of the annotations by number of the image, changed in place.
        number: Number of the image.
        digest: Checksum of its annotations.

    Raises:
        DataError: The table has another image of that number.
    """
    if number not in digests:
        digests[number] = digest
        return True
    if digests[number] != digest:
        raise DataError(
            f"target.image_id: {number} comes twice, with different annotations; give every image a number of its own"
        )
    return False


def counted_images(digests: Mapping[int, int], workers: Workers) -> list[int]:
    """Return the images that this rank counts, in ascending order: those that no lower rank has.

    A collective operation: every rank must call.

    Args:
        digests: Images of this rank by number, with a checksum of their annotations.
        workers: This rank and its process group.

    Raises:
        DataError: Two images have the same number and different annotations; raised on all ranks.
    """
    own = sorted(digests)
    if workers.world_size == 1:
        return own
    lengths = workers.gather(torch.tensor([len(own)], device=workers.device))[:, 0].tolist()
    table = torch.zeros(max(lengths), 2, dtype=torch.int64)
    if own:
        table[: len(own)] = torch.tensor([[number, digests[number]] for number in own])
    tables = workers.gather(table.reshape(-1).to(workers.device)).reshape(workers.world_size, -1, 2).tolist()
    known: dict[int, int] = {}
    counted: list[int] = []
    for rank, (rows, length) in enumerate(zip(tables, lengths, strict=True)):
        unknown = [number for number, digest in rows[:length] if add_digest(known, number, digest)]
        if rank == workers.rank:
            counted = unknown
    return counted


def gather_bytes(content: bytes, workers: Workers) -> list[bytes]:
    """Return the contents of all ranks on the first rank, and an empty list on the others.

    A collective operation: every rank must call. At most 64 MiB arrive at once, beside what has arrived.

    Args:
        content: Content of this rank.
        workers: This rank and its process group.
    """
    if workers.world_size == 1:
        return [content]
    lengths = workers.gather(torch.tensor([len(content)], device=workers.device))[:, 0].tolist()
    step = max(1, min(max(lengths), _ROUND // workers.world_size))
    received = [bytearray() for _ in lengths]
    for start in range(0, max(lengths), step):
        part = torch.frombuffer(bytearray(content[start : start + step].ljust(step, b"\0")), dtype=torch.uint8)
        sent = part.to(workers.device)
        parts = [torch.empty_like(sent) for _ in lengths] if workers.is_first else None
        dist.gather(sent, parts)
        for rank, each in enumerate(parts or ()):
            received[rank] += each.cpu().numpy().tobytes()
    return [bytes(whole[:length]) for whole, length in zip(received, lengths, strict=True)] if workers.is_first else []
