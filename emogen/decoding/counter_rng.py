"""Random numbers as a pure function of a key and counters: the same on every device, in any order, chunk or process."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_ODD = (-0x61C8864680B583EB, -0x2ECBDABC217D106B)
_FACTORS = (-0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15)
_BITS = 24


@dataclass(frozen=True)
class CounterRNG:
    """A family of random numbers, one for every row and every combination of counters.

    Attributes:
        key: of the family; another key gives other numbers.
        first: number of the first row. Of several processes each passes the place of its own rows among all.
    """

    key: int
    first: int = 0

    def uniforms(self, rows: Tensor, *counters: Tensor | int) -> Tensor:
        """Return uniform numbers in [0, 1), float32, in the shape that `rows` and the counters broadcast to.

        Args:
            rows: numbers of rows, counted from 0 in each process, int64.
            counters: further integers, such as the place of a token.

        Source: counters hashed by the finaliser of splitmix64 (Steele et al. 2014; after Salmon et al. 2011, "Parallel random
        numbers: as easy as 1, 2, 3").
        """
        value = _mix(rows + self.first, self.key)
        for counter in counters:
            value = _mix(value, counter)
        return (_shift_right(value, 64 - _BITS)).to(torch.float32) * 2.0**-_BITS


def _mix(value: Tensor, counter: Tensor | int) -> Tensor:
    step = counter * _ODD[1]
    value = value * _ODD[0] + (step if isinstance(step, Tensor) else ((step + (1 << 63)) % (1 << 64) - (1 << 63))) + 1
    value = (value ^ _shift_right(value, 30)) * _FACTORS[0]
    value = (value ^ _shift_right(value, 27)) * _FACTORS[1]
    return value ^ _shift_right(value, 31)


def _shift_right(value: Tensor, positions: int) -> Tensor:
    """Return shifted right with zeros coming in; int64's own shift copies the sign."""
    return (value >> positions) & ((1 << (64 - positions)) - 1)
