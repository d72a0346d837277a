"""Rollouts: every prefix of every row completed by the generator itself, all advancing together."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from emogen.decoding.sampling import Generated, inverse_cdf
from emogen.models.generator import Generator, reply_mask
from emogen.text import EOS, PAD

Reward = Callable[[Tensor, Tensor], Tensor]
"""Takes token rows [m, time] and the numbers [m] of the rows they continue; gives one reward each, [m]."""


@torch.no_grad()
def rollout_returns(
    generator: Generator,
    generated: Generated,
    condition: Tensor,
    max_tokens: int,
    reward: Reward,
    rollouts: int,
    random: torch.Generator,
    chunk: int = 4096,
) -> Tensor:
    """Estimated return of each generated token: the mean reward of completions of the row up to and with that token.

    Args:
        generator: completes; in eval mode.
        generated: rows with their decoding states.
        condition: [rows, emotions + 1 + latent].
        max_tokens: longest reply, as in generation.
        reward: judges whole rows.
        rollouts: completions of each prefix. A reply's last token needs none: its row is whole.
        random: CPU stream of the draws.
        chunk: completions that advance at once, which bounds the memory.

    Returns:
        [rows, time - 1], aligned with `reply_mask`, 0 outside replies.

    Source: Yu et al. 2017 (SeqGAN), equation 4.
    """
    tokens = generated.tokens
    mask = reply_mask(tokens, generated.reply_start)
    rows, times = mask.nonzero(as_tuple=True)
    places = times + 1
    last = places == generated.reply_start[rows] + mask.sum(1)[rows] - 1
    returns = torch.zeros(mask.shape, device=tokens.device)
    whole = rows[last]
    returns[whole, times[last]] = reward(tokens[whole], whole)
    open_rows, open_places = rows[~last].repeat_interleave(rollouts), places[~last].repeat_interleave(rollouts)
    shares = [
        reward(complete(generator, generated, condition, max_tokens, r, p, random), r) / rollouts
        for r, p in zip(torch.split(open_rows, chunk), torch.split(open_places, chunk), strict=True)
    ]
    if shares:
        returns.index_put_((open_rows, open_places - 1), torch.cat(shares), accumulate=True)
    return returns


@torch.no_grad()
def complete(
    generator: Generator,
    generated: Generated,
    condition: Tensor,
    max_tokens: int,
    rows: Tensor,
    places: Tensor,
    random: torch.Generator,
) -> Tensor:
    """Completes `rows` of `generated`, each from its token at `places` on.

    Args:
        generator: completes, at temperature 1.
        generated: rows with their decoding states.
        condition: [rows of generated, emotions + 1 + latent].
        max_tokens: longest reply.
        rows: [m], which row is completed.
        places: [m], place of the last token that is kept; the state before it is taken from `generated`.
        random: CPU stream of the draws.

    Returns:
        [m, time], kept tokens and their completion, padded at the end.
    """
    ends = generated.reply_start[rows] + max_tokens
    capacity = int(ends.max())
    kept = functional.pad(generated.tokens[rows], (0, capacity - generated.tokens.shape[1]), value=PAD)
    kept = kept.masked_fill(torch.arange(capacity, device=rows.device) > places[:, None], PAD)
    state = generator.backbone.branch(generated.states, rows, places - generated.reply_start[rows])
    shifts = generator.shifts(condition)[:, rows]
    alive = torch.arange(len(rows), device=rows.device)
    places = places.clone()
    while len(alive):
        hidden, state = generator.step(kept[alive, places], places, shifts, state)
        uniforms = torch.rand(len(alive), generator=random).to(rows.device)
        chosen = inverse_cdf(generator.logits(hidden).float().softmax(-1), uniforms)
        places = places + 1
        room = places < ends[alive]
        kept[alive[room], places[room]] = chosen[room]
        going = room & (chosen != EOS) & (places + 1 < ends[alive])
        stay = going.nonzero().squeeze(1)
        alive, places, state, shifts = alive[stay], places[stay], state.index_select(2, stay), shifts[:, stay]
    return kept
