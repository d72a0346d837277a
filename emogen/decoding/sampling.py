"""Sampling: frozen options in, frozen samples out, and the token loop between them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional

from emogen.decoding.control import Control
from emogen.errors import require
from emogen.models.generator import Generator
from emogen.text.tokenizer import EOS, PAD

_BLOCK = 64
_FEWEST_ROWS = 256
_SCORES = {"cpu": 1 << 20}
_SCORES_ELSEWHERE = 1 << 28
_LOOK_AGAIN = 8
_BELOW_ONE = 1 - 2.0**-23
_NUCLEUS = 256
_REJECTS_MOST = 0.5
TRIES = 4
_COLDEST = 1e-6


@dataclass(frozen=True)
class SamplingParams:
    """Options of one decoding call.

    Attributes:
        n: samples for each condition.
        temperature: divides the scores; 0 takes the likeliest token (greedy).
        top_k: the k likeliest tokens stay; 0 for all (Fan et al. 2018).
        top_p: the smallest set of likeliest tokens that holds this probability stays; 1 for all (Holtzman et al. 2020).
        min_p: tokens stay that are at least this share as likely as the likeliest; 0 for all (Nguyen et al. 2024).
        control: what steers the texts towards their emotion, where a prompt does not say so itself.
        max_tokens: a reply is cut after so many.
        seed: of the random numbers; row i of a call has the stream (seed, i).
    """

    n: int = 1
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    control: Control = Control()
    max_tokens: int = 40
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.n >= 1, "n", self.n, "at least 1")
        require(0 <= self.temperature <= 100, "temperature", self.temperature, "between 0 and 100")
        require(self.top_k >= 0, "top-k", self.top_k, "0 (off) or more")
        require(0 < self.top_p <= 1, "top-p", self.top_p, "above 0 and at most 1")
        require(0 <= self.min_p <= 1, "min-p", self.min_p, "between 0 and 1")
        require(1 <= self.max_tokens <= 4096, "max-tokens", self.max_tokens, "between 1 and 4096")


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


Choose = Callable[[Tensor, Tensor, int], Tensor]
"""Takes scores [m, vocabulary], the numbers [m] of their rows, and the number of the reply token; gives token ids [m]."""


@dataclass(frozen=True)
class Plain:
    """The choice that leaves the model as it is: a draw at temperature 1. It alone does without all scores at once.

    Attributes:
        uniforms: takes the numbers [m] of rows and the number of the reply token; gives random numbers in [0, 1), [m].
    """

    uniforms: Callable[[Tensor, int], Tensor]

    def __call__(self, scores: Tensor, rows: Tensor, number: int) -> Tensor:
        """See `Choose`."""
        return inverse_cdf(scores.float().softmax(-1), self.uniforms(rows, number))

    def pick(self, generator: Generator, hidden: Tensor, rows: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """See `Picks.pick`."""
        return draw(generator, hidden, self.uniforms(rows, number))

    def take(self, scores: Tensor, rows: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """The tokens and their log probabilities, at once; `scores` are written over."""
        return _drawn(scores, self.uniforms(rows, number))


@runtime_checkable
class Picks(Protocol):
    """A choice that needs more than the scores of each row."""

    def pick(self, generator: Generator, hidden: Tensor, rows: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """The next tokens [m] and their log probabilities, for states `hidden` [m, width] of the rows numbered `rows` [m].

        A row that is to be written no further has the end token.
        """


@dataclass(frozen=True)
class Chosen:
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
    generator: Generator, prefixes: PromptBatch, max_tokens: int, choose: Choose | Picks, keep_states: bool = False
) -> Generated:
    """Reads each prefix, then chooses up to `max_tokens` tokens, until every row has its end token.

    Args:
        generator: its mode is left alone; sampling wants eval mode.
        prefixes: may differ in length; rows do not influence each other.
        max_tokens: of the reply, the end token included.
        choose: picks the next tokens.
        keep_states: whether `Generated.states` is filled, for rollouts; then no row leaves the batch.
    """
    lengths = prefixes.lengths
    tokens = functional.pad(prefixes.tokens, (0, max_tokens), value=PAD)
    log_probs = torch.zeros(tokens.shape, device=tokens.device)
    states = []
    for number, chosen in enumerate(token_loop(generator, prefixes, max_tokens, choose, leaving=not keep_states)):
        positions = lengths[chosen.rows] + number
        tokens[chosen.rows, positions] = chosen.tokens
        log_probs[chosen.rows, positions] = chosen.log_probs
        if keep_states:
            states.append(chosen.state)
    used = int((tokens != PAD).sum(1).max())
    return Generated(tokens[:, :used], lengths, log_probs[:, :used], tuple(states))


@torch.no_grad()
def token_loop(
    generator: Generator, prefixes: PromptBatch, max_tokens: int, choose: Choose | Picks, leaving: bool = True
) -> Iterator[Chosen]:
    """The token loop: reads the prefixes, then yields once a token; arguments as for `generate`.

    Once a quarter of the rows have ended, the others go on alone if `leaving`.
    """
    lengths, condition_shift = prefixes.lengths, generator.condition_shift(prefixes.condition)
    hidden, state = read_prefixes(generator, prefixes, condition_shift, prefixes.tokens.shape[1] + max_tokens)
    rows = torch.arange(len(lengths), device=lengths.device)
    writing = torch.ones_like(rows, dtype=torch.bool)
    for number in range(max_tokens):
        tokens, taken = _chosen(generator, hidden, choose, rows, number)
        yield Chosen(rows, torch.where(writing, tokens, PAD), torch.where(writing, taken, 0.0), state)
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
        shifts: [layers + prefix, rows, width], of all rows.
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


def looks(number: int, device: torch.device) -> bool:
    """Whether a token loop looks which rows have ended after its step `number`: on a GPU, which then has to wait, seldom."""
    return device.type == "cpu" or number % _LOOK_AGAIN == _LOOK_AGAIN - 1


def _chosen(generator: Generator, hidden: Tensor, choose: Choose | Picks, rows: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """The next tokens [m] and their log probabilities at temperature 1."""
    if isinstance(choose, Picks):
        return choose.pick(generator, hidden, rows, number)
    return taken(choose, generator.logits(hidden).float(), rows, number)


def taken(choose: Choose, scores: Tensor, rows: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """The chosen tokens [m] and their log probabilities at temperature 1; `scores` [m, vocabulary] may be written over."""
    if isinstance(choose, Plain):
        return choose.take(scores, rows, number)
    chosen = choose(scores, rows, number)
    return chosen, scores.gather(1, chosen[:, None]).squeeze(1) - scores.logsumexp(-1)


@torch.no_grad()
def draw(generator: Generator, hidden: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Next tokens at temperature 1. Scores are held for a few rows at a time: as many as stay in the processor's cache.

    Args:
        generator: gives the scores.
        hidden: [rows, width], from the generator's `read` or `step`.
        uniforms: [rows] or [rows, draws], in [0, 1).

    Returns:
        Ids and their log probabilities, both in the shape of `uniforms`.
    """
    size = rows_at_once(len(generator.bias), hidden.device)
    pieces = zip(torch.split(hidden, size), torch.split(uniforms, size), strict=True)
    drawn = [_drawn(generator.logits(states).float(), numbers) for states, numbers in pieces]
    ids, log_probs = zip(*drawn, strict=True)
    return torch.cat(ids), torch.cat(log_probs)


def rows_at_once(vocabulary: int, device: torch.device) -> int:
    """How many rows of scores are held at a time: those that stay in the processor's cache, and enough for its cores."""
    return max(_FEWEST_ROWS, _SCORES.get(device.type, _SCORES_ELSEWHERE) // vocabulary)


def _drawn(scores: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """As `draw`, from scores [rows, vocabulary], which are written over."""
    weights = scores.sub_(scores.amax(-1, keepdim=True)).exp_()
    ids, totals = _search(weights, uniforms.view(len(scores), -1))
    log_probs = (weights.gather(1, ids) / totals).log()
    return ids.view(uniforms.shape), log_probs.view(uniforms.shape)


def chooser(sampling: SamplingParams, uniforms: Tensor) -> Choose:
    """The choice that the options describe.

    Args:
        sampling: temperature and filters.
        uniforms: [rows, tries * max_tokens], random numbers in [0, 1): one for every token, then one for every second try.
    """
    tokens = sampling.max_tokens
    if sampling.temperature == 1 and not sampling.top_k and sampling.top_p == 1 and not sampling.min_p:
        return Plain(lambda rows, number: uniforms[rows, number])

    def choose(scores: Tensor, rows: Tensor, number: int) -> Tensor:
        if sampling.temperature < _COLDEST:
            return scores.argmax(-1)
        warmed = scores.float() / sampling.temperature
        return filtered_draw(warmed, sampling, uniforms[rows[:, None], torch.arange(number, uniforms.shape[1], tokens)])

    return choose


def filtered_draw(scores: Tensor, sampling: SamplingParams, uniforms: Tensor) -> Tensor:
    """One draw a row from `filtered` scores, without sorting them: top-p and min-p by rejection.

    A token drawn from all is kept if those likelier than it hold less than the share, which one pass tells. Where all tries
    fail, for top-k, and where there is one number a row, the filter itself is computed.

    Args:
        scores: [rows, vocabulary], temperature included.
        sampling: the filters.
        uniforms: [rows, tries + 1], in [0, 1); the last are for the filter itself.

    Returns:
        [rows], ids.
    """
    if sampling.top_k or sampling.top_p < _REJECTS_MOST or uniforms.shape[1] == 1:
        return inverse_cdf(filtered(scores, sampling).softmax(-1), uniforms[:, 0])
    weights = scores.sub(scores.amax(-1, keepdim=True)).exp_()
    ids = inverse_cdf(weights, uniforms[:, 0])
    left = (~_passes(weights, ids, sampling)).nonzero().squeeze(1)
    for again in uniforms[:, 1:-1].T:
        if not len(left):
            return ids
        ids[left] = inverse_cdf(weights[left], again[left])
        left = left[~_passes(weights[left], ids[left], sampling)]
    ids[left] = inverse_cdf(filtered(scores[left], sampling).softmax(-1), uniforms[left, -1])
    return ids


def _passes(weights: Tensor, ids: Tensor, sampling: SamplingParams) -> Tensor:
    """Whether tokens [rows] are among those that top-p and min-p leave; the highest of the weights [rows, vocabulary] are 1."""
    own = weights.gather(1, ids[:, None])
    likelier = torch.where(weights > own, weights, 0.0).sum(-1)
    return (likelier < sampling.top_p * weights.sum(-1)) & (own.squeeze(1) >= sampling.min_p)


def filtered(scores: Tensor, sampling: SamplingParams) -> Tensor:
    """Scores [rows, vocabulary] with the tokens that top-k, top-p and min-p take away at minus infinity."""
    if 0 < sampling.top_k < scores.shape[-1]:
        scores = scores.masked_fill(scores < scores.topk(sampling.top_k).values[:, -1:], -math.inf)
    if sampling.top_p < 1:
        scores = _nucleus(scores, sampling.top_p)
    if sampling.min_p > 0:
        best = scores.max(-1, keepdim=True).values
        scores = scores.masked_fill(scores < best + math.log(sampling.min_p), -math.inf)
    return scores


def _nucleus(scores: Tensor, share: float) -> Tensor:
    """Top-p; only as many of the likeliest tokens are sorted as hold the share in every row, since sorting all is slow."""
    probabilities = scores.softmax(-1)
    width = min(_NUCLEUS, scores.shape[-1])
    while True:
        best, positions = probabilities.topk(width)
        upto = best.cumsum(-1)
        if width == scores.shape[-1] or bool((upto[:, -1] >= share).all()):
            break
        width = min(4 * width, scores.shape[-1])
    kept = scores.gather(-1, positions).masked_fill(upto - best >= share, -math.inf)
    return torch.full_like(scores, -math.inf).scatter(-1, positions, kept)


def inverse_cdf(weights: Tensor, uniforms: Tensor) -> Tensor:
    """One draw a row by inverting the cumulative distribution in two levels: first a block of 64 ids, then the id in it.

    Args:
        weights: [rows, vocabulary], float32, not negative: probabilities, or what is proportional to them.
        uniforms: [rows], in [0, 1).

    Returns:
        [rows], ids; never one of weight 0. Adding up V / 64 blocks and one block costs one pass over the weights where
        `torch.multinomial` draws a random number for each.
    """
    return _search(weights, uniforms[:, None])[0].squeeze(1)


def _search(weights: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Ids [rows, draws] for `uniforms` of that shape, and the sums [rows, 1] of the weights."""
    vocabulary = weights.shape[1]
    full = vocabulary // _BLOCK
    blocks, rest = torch.split(weights, [full * _BLOCK, vocabulary - full * _BLOCK], 1)
    upto = torch.cat([blocks.view(len(weights), full, _BLOCK).sum(-1), rest.sum(-1, keepdim=True)], 1).cumsum(1)
    # Rounded up to the sum itself, a target would lie behind the last id.
    target = uniforms * _BELOW_ONE * upto[:, -1:]
    block = torch.searchsorted(upto, target, right=True).clamp(max=full)
    inner = target - functional.pad(upto, (1, 0)).gather(1, block)
    ids = block[..., None] * _BLOCK + torch.arange(_BLOCK, device=weights.device)
    inside = weights.gather(1, ids.clamp(max=vocabulary - 1).flatten(1)).view(ids.shape) * (ids < vocabulary)
    place = (inside.cumsum(-1) <= inner[..., None]).sum(-1)
    last = _BLOCK - 1 - (inside > 0).flip(-1).int().argmax(-1)
    # The bound holds even where the weights are not numbers: a broken model is reported by its loss.
    return (block * _BLOCK + torch.minimum(place, last)).clamp(max=vocabulary - 1), upto[:, -1:]


def row_uniforms(streams: Sequence[int], numbers: int) -> Tensor:
    """Uniform random numbers [rows, numbers], each row from a stream of its own; see `fold_in`."""
    generators = (torch.Generator().manual_seed(stream) for stream in streams)
    return torch.stack([torch.rand(numbers, generator=generator) for generator in generators])


def row_normals(streams: Sequence[int], numbers: int) -> Tensor:
    """Standard normal numbers [rows, numbers], likewise; of other streams than `row_uniforms`."""
    generators = (torch.Generator().manual_seed(_mixed(~stream, 0)) for stream in streams)
    return torch.stack([torch.randn(numbers, generator=generator) for generator in generators])


def fold_in(seed: int, row: int, candidate: int = 0) -> int:
    """The number of the random stream of a row, a pure function of seed and row; further candidates have others."""
    stream = _mixed(seed, row)
    return _mixed(stream, candidate) if candidate else stream


def _mixed(seed: int, row: int) -> int:
    """A 63-bit stream number from (seed, row), by the finaliser of splitmix64 (Steele et al. 2014)."""
    mask = (1 << 64) - 1
    value = (seed * 0x9E3779B97F4A7C15 + row * 0xD1342543DE82EF95 + 1) & mask
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
    return (value ^ (value >> 31)) >> 1
