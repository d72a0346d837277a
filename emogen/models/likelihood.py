"""How likely a generator finds replies, token by token."""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from emogen.models.chunks import in_chunks
from emogen.models.generator import Generator, reply_mask
from emogen.models.losses import token_nll


def reply_nll(
    generator: Generator, tokens: Tensor, reply_start: Tensor, condition: Tensor, chunk: int = sys.maxsize
) -> tuple[Tensor, Tensor]:
    """Return negative log-likelihood of each reply token.

    Args:
        generator: the model.
        tokens: [batch, time].
        reply_start: [batch].
        condition: [batch, emotions + 1 + latent].
        chunk: places whose scores of the vocabulary are held at once; see `in_chunks`.

    Returns:
        nats [batch, time - 1], 0 outside the reply, and the mask of the same shape. Scores are computed inside replies only.
    """
    mask = reply_mask(tokens, reply_start)

    def nll(states: Tensor, targets: Tensor) -> Tensor:
        return token_nll(generator.logits(states), targets)

    found = in_chunks(nll, chunk, generator(tokens[:, :-1], condition)[mask], tokens[:, 1:][mask])
    return torch.zeros(mask.shape, device=tokens.device).masked_scatter(mask, found), mask
