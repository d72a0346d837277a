"""The Transformer block that generator, VAE encoder and discriminator share: pre-norm, rotary positions, SwiGLU."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from emogen.text.tokenizer import EOS, PAD

_ROTARY_BASE = 10_000.0


class Block(nn.Module):
    """Attention and a gated feed-forward layer, each on a normalised input and added to the stream.

    Source: Vaswani et al. 2017; RMSNorm (Zhang & Sennrich 2019), SwiGLU (Shazeer 2020), rotary positions (Su et al. 2021).
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        inner = feedforward_width(width)
        self.attention_norm = nn.RMSNorm(width, eps=1e-6)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.feedforward_norm = nn.RMSNorm(width, eps=1e-6)
        self.gate_up = nn.Linear(width, 2 * inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, stream: Tensor, rotation: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        """Return one layer over whole sequences.

        Args:
            stream: [batch, time, width].
            rotation: [2, time, head width], from `rotation_of`.
            mask: [batch, 1, 1, time], true where a key may be seen; None for all.
            causal: whether a position sees only itself and what came before.
        """
        query, key, value = self._project(stream)
        query, key = rotate(query, rotation), rotate(key, rotation)
        mixed = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=causal, dropout_p=self.dropout if self.training else 0.0
        )
        return self._finish(stream, mixed)

    def step(self, stream: Tensor, rotation: Tensor, cache: Tensor, positions: Tensor) -> Tensor:
        """Return one layer for the next tokens of each row; writes their keys and values into `cache` at `positions`.

        Args:
            stream: [rows, time, width].
            rotation: [2, rows, 1, time, head width], for each row's own positions.
            cache: [2, rows, heads, capacity, head width].
            positions: [rows, time]; a token sees what stands at its own position and before.
        """
        query, key, value = self._project(stream)
        write_cache(cache, rotate(key, rotation), value, positions)
        seen = torch.arange(cache.shape[3], device=positions.device) <= positions[..., None]
        mixed = functional.scaled_dot_product_attention(rotate(query, rotation), cache[0], cache[1], attn_mask=seen[:, None])
        return self._finish(stream, mixed)

    def _project(self, stream: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        batch, time, width = stream.shape
        parts = self.qkv(self.attention_norm(stream)).view(batch, time, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        return query, key, value

    def _finish(self, stream: Tensor, mixed: Tensor) -> Tensor:
        stream = stream + self._drop(self.out(mixed.transpose(1, 2).flatten(2)))
        gate, up = self.gate_up(self.feedforward_norm(stream)).chunk(2, -1)
        return stream + self._drop(self.down(functional.silu(gate) * up))

    def _drop(self, stream: Tensor) -> Tensor:
        return functional.dropout(stream, self.dropout, self.training)


def mean_of(states: Tensor, present: Tensor) -> Tensor:
    """Return the mean over the present places: [batch, time, width] and [batch, time] to [batch, width]."""
    return (states * present[..., None]).sum(1) / present.sum(1, keepdim=True)


def last_of(states: Tensor, lengths: Tensor) -> Tensor:
    """Return of states [rows, time, ...] the one at each row's last token, [rows, ...]."""
    return states[torch.arange(len(states), device=states.device), lengths - 1]


def write_cache(cache: Tensor, key: Tensor, value: Tensor, positions: Tensor) -> None:
    """Put keys and values [rows, heads, time, head width] at `positions` [rows, time] of a `cache` as in `Block.step`."""
    rows = torch.arange(len(positions), device=positions.device)[:, None]
    cache[0][rows, :, positions] = key.transpose(1, 2)
    cache[1][rows, :, positions] = value.transpose(1, 2)


def feedforward_width(width: int) -> int:
    """Return 8/3 of the width, rounded up to a multiple of 32: a gated layer then costs what a plain one of 4 widths does."""
    return -(-8 * width // 96) * 32


def rotation_of(positions: Tensor, head_width: int) -> Tensor:
    """Return cosines and sines [2, ..., head width] of rotary positions for integer `positions` [...]."""
    exponents = torch.arange(0, head_width, 2, device=positions.device).float() / head_width
    angles = positions.float()[..., None] * _ROTARY_BASE**-exponents
    both = torch.stack([angles.cos(), angles.sin()])
    return torch.cat([both, both], -1)


def rotate(heads: Tensor, rotation: Tensor) -> Tensor:
    """Return rotates `heads` [batch, heads, time, head width] by a `rotation` [2, ...] that broadcasts to it."""
    cosine, sine = rotation.to(heads.dtype).unbind()
    left, right = heads.chunk(2, -1)
    return heads * cosine + torch.cat([-right, left], -1) * sine


def present_tokens(tokens: Tensor) -> Tensor:
    """Tell where the tokens of each row stand, [batch, time]: no padding, and nothing behind an end token."""
    ends = tokens == EOS
    return (tokens != PAD) & (ends.cumsum(1) - ends.long() == 0)


class Encoder(nn.Module):
    """A stack of blocks over embedded tokens, normalised at the end."""

    def __init__(self, width: int, layers: int, heads: int, dropout: float, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.head_width = width // heads
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.norm = nn.RMSNorm(width, eps=1e-6)

    def forward(self, stream: Tensor, present: Tensor) -> Tensor:
        """Return states [batch, time, width] of inputs of that shape; `present` [batch, time] is false at padding.

        Padding stands at the end of a row, so a causal stack needs no mask for it.
        """
        rotation = rotation_of(torch.arange(stream.shape[1], device=stream.device), self.head_width)
        mask = None if self.causal else present[:, None, None]
        for block in self.blocks:
            stream = block(stream, rotation, mask, self.causal)
        normed: Tensor = self.norm(stream)
        return normed
