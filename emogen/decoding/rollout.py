"""Rollouts: every prefix of every row completed by the generator itself, all advancing together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional

from emogen.decoding.counter_rng import CounterRNG
from emogen.decoding.loop import Generated
from emogen.decoding.sampler import draw, looks
from emogen.models.generator import Generator, reply_mask
from emogen.text.tokenizer import EOS, PAD

_FULL = 7 / 8

Reward = Callable[[Tensor, Tensor], Tensor]
"""Takes token rows [m, time] and the numbers [m] of the rows they continue; give one reward each, [m]."""


@dataclass(frozen=True)
class _Open:
    """Completions that go on, m of them.

    Attributes:
        at: [m], where they stand among all that are completed together.
        row: [m], of the generated ones.
        start: [m], place of the last token that was kept.
        number: [m], among the completions of that prefix.
        place: [m], of `token`.
        token: [m], the last one drawn.
        end: [m], the place behind the longest reply.
        condition_shift: [1 + layers + prefix, m, width].
        state: the decoding state before `token`.
    """

    at: Tensor
    row: Tensor
    start: Tensor
    number: Tensor
    place: Tensor
    token: Tensor
    end: Tensor
    condition_shift: Tensor
    state: Tensor

    def only(self, stay: Tensor) -> _Open:
        """Return those at the indices `stay`."""
        columns = (self.at, self.row, self.start, self.number, self.place, self.token, self.end)
        at, row, start, number, place, token, end = (column[stay] for column in columns)
        condition_shift, state = self.condition_shift[:, stay], self.state.index_select(2, stay)
        return _Open(at, row, start, number, place, token, end, condition_shift, state)

    def next(self, generator: Generator, draws: CounterRNG, last: int) -> _Open:
        """Move on by one token; the places of those that have ended stop at `last`."""
        hidden, state = generator.step(self.token, self.place, self.condition_shift, self.state)
        uniforms = draws.uniforms(self.row, self.start, self.number, self.place + 1)
        token, _ = draw(generator, hidden, uniforms)
        return replace(self, place=(self.place + 1).clamp(max=last), token=token, state=state)


@torch.no_grad()
def rollout_returns(
    generator: Generator,
    generated: Generated,
    condition: Tensor,
    max_tokens: int,
    reward: Reward,
    rollouts: int,
    draws: CounterRNG,
    chunk: int = 4096,
) -> Tensor:
    """Return estimated return of each generated token: the mean reward of completions of the row up to and with that token.

    Args:
        generator: completes; in eval mode.
        generated: rows with their decoding states, which `rollouts` of 0 does not need.
        condition: [rows, emotions + 1 + latent].
        max_tokens: longest reply, as in generation.
        reward: judges whole rows.
        rollouts: completions of each prefix. A reply's last token needs none: its row is whole. With 0 each token of a reply
            gets the reward of the whole reply.
        draws: where the random numbers come from; see `complete`.
        chunk: completions that advance at once, which bounds the memory and changes nothing else.

    Returns:
        [rows, time - 1], aligned with `reply_mask`, 0 outside replies.

    Source: Yu et al. 2017 (SeqGAN), equation 4.
    """
    tokens = generated.tokens
    mask = reply_mask(tokens, generated.reply_start)
    returns = reward(tokens, torch.arange(len(tokens), device=tokens.device))[:, None] * mask
    last = generated.reply_start + mask.sum(1) - 1
    before_last = mask & (torch.arange(1, tokens.shape[1], device=tokens.device) < last[:, None])
    # By place: rows that are completed together then end at about the same time.
    times, rows = before_last.T.nonzero(as_tuple=True)
    if not rollouts or not len(rows):
        return returns
    rewards = returns.new_empty(len(rows), rollouts)
    together = min(rollouts, chunk)
    parts = torch.split(torch.arange(len(rows), device=rows.device), max(1, chunk // together))
    for part, numbers in product(parts, torch.split(torch.arange(rollouts, device=rows.device), together)):
        completed = complete(generator, generated, condition, max_tokens, rows[part], times[part] + 1, numbers, draws)
        found = reward(completed, rows[part].repeat_interleave(len(numbers)))
        rewards[part[:, None], numbers] = found.view(len(part), -1)
    returns[rows, times] = rewards.mean(1)
    return returns


@torch.no_grad()
def complete(
    generator: Generator,
    generated: Generated,
    condition: Tensor,
    max_tokens: int,
    rows: Tensor,
    positions: Tensor,
    numbers: Tensor,
    draws: CounterRNG,
) -> Tensor:
    """Return completes `rows` of `generated`, each from its token at `positions` on, several times.

    All completions of a prefix draw their first token from the same scores, which are computed once.

    Args:
        generator: completes, at temperature 1.
        generated: rows with their decoding states.
        condition: [rows of generated, emotions + 1 + latent].
        max_tokens: longest reply.
        rows: [m], which row is completed.
        positions: [m], place of the last token that is kept; the state before it is taken from `generated`.
        numbers: [n], of the completions of each prefix.
        draws: the random number of a token has the counters row, place of the last token kept, number of the completion, and
            own place. So a completion does not depend on what else is completed with it.

    Returns:
        [m * n, time], kept tokens and their completion, padded at the end; those of one prefix one after another.
    """
    capacity = int(generated.reply_start.max()) + max_tokens
    # One column more: rows that have ended write there.
    kept = functional.pad(generated.tokens[rows], (0, capacity + 1 - generated.tokens.shape[1]), value=PAD)
    kept = kept.masked_fill(torch.arange(capacity + 1, device=rows.device) > positions[:, None], PAD)
    condition_shift = generator.condition_shift(condition)[:, rows]
    state = generator.backbone.fork_cache(generated.states, rows, positions - generated.reply_start[rows])
    hidden, state = generator.step(generated.tokens[rows, positions], positions, condition_shift, state)
    uniforms = draws.uniforms(rows[:, None], positions[:, None], numbers, positions[:, None] + 1)
    tokens, _ = draw(generator, hidden, uniforms)
    row, start = rows.repeat_interleave(len(numbers)), positions.repeat_interleave(len(numbers))
    going = _Open(
        at=torch.arange(len(row), device=row.device),
        row=row,
        start=start,
        number=numbers.repeat(len(rows)),
        place=start + 1,
        token=tokens.flatten(),
        end=generated.reply_start[row] + max_tokens,
        condition_shift=condition_shift.repeat_interleave(len(numbers), 1),
        state=state.repeat_interleave(len(numbers), 2),
    )
    kept = kept.repeat_interleave(len(numbers), 0)
    writing = torch.ones_like(going.at, dtype=torch.bool)
    for step in range(max_tokens):
        kept[going.at, torch.where(writing, going.place, capacity)] = going.token
        writing = writing & (going.token != EOS) & (going.place + 1 < going.end)
        if looks(step, rows.device):
            left = int(writing.sum())
            if not left:
                break
            if left <= _FULL * len(writing):
                going, writing = going.only(writing.nonzero().squeeze(1)), writing[writing]
        going = going.next(generator, draws, capacity - 1)
    return kept[:, :capacity]
