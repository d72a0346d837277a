"""Random streams of rows: each a pure function of seed, row and candidate, whatever stands beside it in a batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def row_uniforms(streams: Sequence[int], numbers: int) -> Tensor:
    """Draw uniform random numbers [rows, numbers], each row from a stream of its own; see `fold_in`."""
    generators = (torch.Generator().manual_seed(stream) for stream in streams)
    return torch.stack([torch.rand(numbers, generator=generator) for generator in generators])


def row_normals(streams: Sequence[int], numbers: int) -> Tensor:
    """Draw standard normal numbers [rows, numbers], likewise; of other streams than `row_uniforms`."""
    generators = (torch.Generator().manual_seed(_mix(~stream, 0)) for stream in streams)
    return torch.stack([torch.randn(numbers, generator=generator) for generator in generators])


def fold_in(seed: int, row: int, candidate: int = 0) -> int:
    """Return the number of the random stream of a row, a pure function of seed and row; further candidates have others."""
    stream = _mix(seed, row)
    return _mix(stream, candidate) if candidate else stream


def _mix(seed: int, row: int) -> int:
    """Return a 63-bit stream number from (seed, row), by the finaliser of splitmix64 (Steele et al. 2014)."""
    mask = (1 << 64) - 1
    value = (seed * 0x9E3779B97F4A7C15 + row * 0xD1342543DE82EF95 + 1) & mask
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
    return (value ^ (value >> 31)) >> 1
