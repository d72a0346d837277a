"""The token loop: reads the prompts, and lets a sampler choose token after token."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from emogen.decoding.sampler import Sampler, looks
from emogen.models.generator import Generator
from emogen.text.tokenizer import EOS, PAD


@dataclass(frozen=True)
class PromptBatch:
    """What is given to the generator.

    Attributes:
        tokens: [rows, time], context tokens and BOS, padded at the end.
        lengths: [rows].
        condition: [rows, emotions + 1 + latent].
    """

    tokens: Tensor
    lengths: Tensor
    condition: Tensor


@dataclass(frozen=True)
class Generated:
    """Prefixes with their replies.

    Attributes:
        tokens: [rows, time], padded at the end.
        reply_start: [rows].
        log_probs: [rows, time], of the token at each place under the model at temperature 1; 0 outside replies.
        states: decoding states after the prefix and each further token of the reply, where they were asked for.
    """

    tokens: Tensor
    reply_start: Tensor
    log_probs: Tensor
    states: tuple[Tensor, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class DecodingStep:
    """One step of the token loop.

    Attributes:
        rows: [m], the numbers of the rows that are still in the batch; it shrinks once a quarter have ended.
        tokens: [m], of each; PAD behind its end token.
        log_probs: [m], at temperature 1; 0 behind the end token.
        state: the decoding state before these tokens.
    """

    rows: Tensor
    tokens: Tensor
    log_probs: Tensor
    state: Tensor = field(repr=False)


@torch.no_grad()
def generate(
    generator: Generator, prefixes: PromptBatch, max_tokens: int, sampler: Sampler, keep_states: bool = False
) -> Generated:
    """Read each prefix, then choose up to `max_tokens` tokens, until every row has its end token.

    Args:
        generator: its mode is left alone; sampling wants eval mode.
        prefixes: may differ in length; rows do not influence each other.
        max_tokens: of the reply, the end token included.
        sampler: chooses the next tokens.
        keep_states: whether `Generated.states` is filled, for rollouts; then no row leaves the batch.
    """
    lengths = prefixes.lengths
    tokens = functional.pad(prefixes.tokens, (0, max_tokens), value=PAD)
    log_probs = torch.zeros(tokens.shape, device=tokens.device)
    states = []
    for number, chosen in enumerate(token_loop(generator, prefixes, max_tokens, sampler, leaving=not keep_states)):
        positions = lengths[chosen.rows] + number
        tokens[chosen.rows, positions] = chosen.tokens
        log_probs[chosen.rows, positions] = chosen.log_probs
        if keep_states:
            states.append(chosen.state)
    used = int((tokens != PAD).sum(1).max())
    return Generated(tokens[:, :used], lengths, log_probs[:, :used], tuple(states))


@torch.no_grad()
def token_loop(
    generator: Generator, prefixes: PromptBatch, max_tokens: int, sampler: Sampler, leaving: bool = True
) -> Iterator[DecodingStep]:
    """Read the prefixes, then yield once a token; arguments as for `generate`.

    Once a quarter of the rows have ended, the others go on alone if `leaving`.
    """
    lengths, condition_shift = prefixes.lengths, generator.condition_shift(prefixes.condition)
    hidden, state = read_prefixes(generator, prefixes, condition_shift, prefixes.tokens.shape[1] + max_tokens)
    rows = torch.arange(len(lengths), device=lengths.device)
    writing = torch.ones_like(rows, dtype=torch.bool)
    for number in range(max_tokens):
        tokens, taken = sampler.sample(generator, hidden, rows, number)
        yield DecodingStep(rows, torch.where(writing, tokens, PAD), torch.where(writing, taken, 0.0), state)
        writing = writing & (tokens != EOS)
        left = int(writing.sum()) if looks(number, rows.device) else len(rows)
        if number + 1 == max_tokens or not left:
            return
        if leaving and 4 * left <= 3 * len(rows):
            rows, tokens, condition_shift, state = (
                rows[writing],
                tokens[writing],
                condition_shift[:, writing],
                state[:, :, writing],
            )
            writing = writing[writing]
        hidden, state = generator.step(tokens, lengths[rows] + number, condition_shift, state)


def read_prefixes(generator: Generator, prefixes: PromptBatch, condition_shift: Tensor, capacity: int) -> tuple[Tensor, Tensor]:
    """Read prefixes, equal ones once: the candidates of one reply share theirs.

    Args:
        generator: reads them.
        prefixes: of all rows.
        condition_shift: [layers + prefix, rows, width], of all rows.
        capacity: tokens that the decoding state has room for.

    Returns:
        States [rows, width] after each prefix, and the decoding state of all rows.
    """
    # Whole numbers and float32 are exact in float64.
    parts = (prefixes.tokens, prefixes.lengths[:, None], prefixes.condition)
    _, place = torch.cat([part.double() for part in parts], 1).unique(dim=0, return_inverse=True)  # type: ignore[no-untyped-call]
    count = int(place.max()) + 1
    if count == len(place):
        return generator.prefill(
            prefixes.tokens, prefixes.lengths, condition_shift, generator.init_cache(condition_shift, capacity)
        )
    numbers = torch.arange(len(place), device=place.device)
    first = numbers.new_full((count,), len(place)).scatter_reduce(0, place, numbers, "amin")
    state = generator.init_cache(condition_shift[:, first], capacity)
    hidden, state = generator.prefill(prefixes.tokens[first], prefixes.lengths[first], condition_shift[:, first], state)
    return hidden[place], state[:, :, place]
