"""A function over many places computed for some at a time, so that memory does not grow with their number."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def in_chunks(function: Callable[..., Tensor], chunk: int, *tensors: Tensor) -> Tensor:
    """`function` of tensors [places, ...], `chunk` places at once, joined along its last axis.

    Of more chunks than one nothing is kept but their inputs: each is computed again in the backward pass (Chen et al. 2016).
    """
    if len(tensors[0]) <= chunk:
        return function(*tensors)
    pieces = zip(*(torch.split(tensor, chunk) for tensor in tensors), strict=True)
    return torch.cat([checkpoint(function, *piece, use_reentrant=False) for piece in pieces], -1)
