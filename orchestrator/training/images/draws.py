"""Random numbers of samples: the same on every rank and device and for every number of workers.

A draw is a hash of (seed, epoch, sample, name of the draw); there is no state to save or restore.

Source: the mixing function of SplitMix64 (Steele, Lea, Flood 2014).
"""

from __future__ import annotations

import math
import zlib

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["SampleDraws"]

_STEP = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_UNIT = 2.0**-53  # float64 has 53 bits between 0 and 1


class SampleDraws:
    """Random numbers of some samples in one epoch.

    Args:
        seed: Seed of the trial.
        epoch: Epoch, from 1.
        samples: Positions in the training split, (B,).
    """

    def __init__(self, seed: int, epoch: int, samples: npt.NDArray[np.int64]) -> None:
        key = _mix(_mix(np.array([seed], np.uint64)) + np.uint64(epoch))
        self._keys = _mix(key + samples.astype(np.uint64))

    def __len__(self) -> int:
        return len(self._keys)

    def uniform(self, name: str, count: int = 1) -> npt.NDArray[np.float64]:
        """Return numbers in [0, 1), (B, count), which depend on the name of the draw."""
        stream = self._keys + np.uint64(zlib.crc32(name.encode()))
        numbers = _mix(stream[:, None] + np.arange(1, count + 1, dtype=np.uint64) * _STEP)
        return (numbers >> np.uint64(11)).astype(np.float64) * _UNIT

    def normal(self, name: str, count: int = 1) -> npt.NDArray[np.float64]:
        """Return standard normal numbers, (B, count), which depend on the name of the draw."""
        first, second = np.split(self.uniform(name, 2 * count), 2, axis=1)
        normal: npt.NDArray[np.float64] = np.sqrt(-2 * np.log1p(-first)) * np.cos(2 * math.pi * second)
        return normal  # Box and Muller 1958

    def normal_at(self, name: str, rows: Tensor, places: Tensor, channels: int) -> Tensor:
        """Return standard normal numbers for some pixels, computed on their device: float32 (K, channels).

        A pixel is hashed once; its channels are products of the hash with unrelated odd numbers.

        Args:
            name: Name of the draw.
            rows: Samples, as positions among those of this object, (K,).
            places: Positions of the pixels within their image, (K,).
            channels: Number of channels of the images.
        """
        keys = torch.from_numpy((self._keys + np.uint64(zlib.crc32(name.encode()))).view(np.int64)).to(rows.device)
        odd = torch.from_numpy((_mix(np.arange(channels, dtype=np.uint64)) | np.uint64(1)).view(np.int64))
        hashed = _mix_on_device(keys[rows] + (places + 1) * _signed(_STEP))[:, None] * odd.to(rows.device)
        first, second = _unit(hashed >> 40), _unit(hashed >> 16)
        return first.neg_().log1p_().mul_(-2).sqrt_().mul_(second.mul_(2 * math.pi).cos_())  # Box and Muller 1958


def _mix(numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Spread every bit of the input over all bits of the output; overflow is intended."""
    numbers = numbers + _STEP
    numbers = (numbers ^ (numbers >> np.uint64(30))) * _FIRST
    numbers = (numbers ^ (numbers >> np.uint64(27))) * _SECOND
    return numbers ^ (numbers >> np.uint64(31))


def _mix_on_device(numbers: Tensor) -> Tensor:
    """Compute `_mix` on int64, whose products have the same bits; plain shifts would repeat the sign."""
    numbers = numbers + _signed(_STEP)
    numbers = (numbers ^ _shifted(numbers, 30)) * _signed(_FIRST)
    numbers = (numbers ^ _shifted(numbers, 27)) * _signed(_SECOND)
    return numbers ^ _shifted(numbers, 31)


def _shifted(numbers: Tensor, bits: int) -> Tensor:
    return (numbers >> bits) & ((1 << (64 - bits)) - 1)


def _unit(bits: Tensor) -> Tensor:
    """Convert the lowest 24 bits, the precision of float32, to a number in [0, 1)."""
    return (bits & 0xFFFFFF).float() * 2.0**-24


def _signed(number: np.uint64) -> int:
    return int(number.astype(np.int64))
