"""Samplers: each chooses the next token of every row of a batch, from logits or from the hidden states behind them.

    GreedySampler    the likeliest token
    PlainSampler     a draw at temperature 1, which leaves the model as it is
    FilteredSampler  a draw with temperature, top-k, top-p, min-p

`emogen.decoding.controllers.ControlledSampler` steers the logits, and leaves the choice to one of these.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from emogen.decoding.params import SamplingParams
from emogen.models.generator import Generator

_BLOCK = 64
_FEWEST_ROWS = 256
_LOGITS = {"cpu": 1 << 20}
_LOGITS_ELSEWHERE = 1 << 28
_LOOK_AGAIN = 8
_BELOW_ONE = 1 - 2.0**-23
_NUCLEUS = 256
_REJECTS_MOST = 0.5
TRIES = 4
_COLDEST = 1e-6


class Sampler(Protocol):
    """What the token loop asks for the next tokens."""

    def sample(self, generator: Generator, hidden: Tensor, rows: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """Choose the next tokens.

        Args:
            generator: gives the logits.
            hidden: [m, hidden size], from the generator's `prefill` or `step`.
            rows: [m], the numbers of these rows in the call.
            number: of the reply token.

        Returns:
            Ids [m], and their log probabilities [m] at temperature 1. A row that is to be written no further has the end
            token.
        """


class LogitsSampler:
    """A sampler that needs no more than the logits of each row."""

    def choose(self, logits: Tensor, rows: Tensor, number: int) -> Tensor:
        """Return ids [m], from logits [m, vocabulary] of the rows numbered `rows` [m]; `number` is that of the reply token."""
        raise NotImplementedError

    def sample(self, generator: Generator, hidden: Tensor, rows: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """See `Sampler.sample`."""
        return self.sample_logits(generator.logits(hidden).float(), rows, number)

    def sample_logits(self, logits: Tensor, rows: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """Return ids [m] and their log probabilities at temperature 1; `logits` [m, vocabulary] may be written over."""
        chosen = self.choose(logits, rows, number)
        return chosen, logits.gather(1, chosen[:, None]).squeeze(1) - logits.logsumexp(-1)


class GreedySampler(LogitsSampler):
    """Takes the likeliest token."""

    def choose(self, logits: Tensor, rows: Tensor, number: int) -> Tensor:
        """See `LogitsSampler.choose`."""
        return logits.argmax(-1)


class PlainSampler(LogitsSampler):
    """Draws at temperature 1, and holds the logits of a few rows at a time."""

    def __init__(self, uniforms: Callable[[Tensor, int], Tensor]) -> None:
        """Take `uniforms`, which gives random numbers [m] in [0, 1) for the numbers [m] of rows and that of the reply token."""
        self.uniforms = uniforms

    def choose(self, logits: Tensor, rows: Tensor, number: int) -> Tensor:
        """See `LogitsSampler.choose`."""
        return inverse_cdf(logits.float().softmax(-1), self.uniforms(rows, number))

    def sample(self, generator: Generator, hidden: Tensor, rows: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """See `Sampler.sample`."""
        return draw(generator, hidden, self.uniforms(rows, number))

    def sample_logits(self, logits: Tensor, rows: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """See `LogitsSampler.sample_logits`."""
        return _draw_logits(logits, self.uniforms(rows, number))


class FilteredSampler(LogitsSampler):
    """Draws with temperature and filters."""

    def __init__(self, params: SamplingParams, uniforms: Tensor) -> None:
        """Take the options, and random numbers [rows, tries * max_tokens] as `build_sampler` does."""
        self.params, self.uniforms = params, uniforms

    def choose(self, logits: Tensor, rows: Tensor, number: int) -> Tensor:
        """See `LogitsSampler.choose`."""
        tries = torch.arange(number, self.uniforms.shape[1], self.params.max_tokens)
        return filtered_draw(logits.float() / self.params.temperature, self.params, self.uniforms[rows[:, None], tries])


def build_sampler(params: SamplingParams, uniforms: Tensor) -> LogitsSampler:
    """Build the sampler that the options describe.

    Args:
        params: temperature and filters.
        uniforms: [rows, tries * max_tokens], random numbers in [0, 1): one for every token, then one for every second try.
    """
    if params.temperature < _COLDEST:
        return GreedySampler()
    if params.temperature == 1 and not params.top_k and params.top_p == 1 and not params.min_p:
        return PlainSampler(lambda rows, number: uniforms[rows, number])
    return FilteredSampler(params, uniforms)


def looks(number: int, device: torch.device) -> bool:
    """Tell whether a token loop looks which rows have ended after its step `number`.

    On a GPU, which then has to wait, seldom.
    """
    return device.type == "cpu" or number % _LOOK_AGAIN == _LOOK_AGAIN - 1


@torch.no_grad()
def draw(generator: Generator, hidden: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Draw next tokens at temperature 1. Logits are held for a few rows at a time: as many as stay in the processor's cache.

    Args:
        generator: gives the logits.
        hidden: [rows, width], from the generator's `prefill` or `step`.
        uniforms: [rows] or [rows, draws], in [0, 1).

    Returns:
        Ids and their log probabilities, both in the shape of `uniforms`.
    """
    size = rows_at_once(len(generator.bias), hidden.device)
    pieces = zip(torch.split(hidden, size), torch.split(uniforms, size), strict=True)
    drawn = [_draw_logits(generator.logits(states).float(), numbers) for states, numbers in pieces]
    ids, log_probs = zip(*drawn, strict=True)
    return torch.cat(ids), torch.cat(log_probs)


def rows_at_once(vocabulary: int, device: torch.device) -> int:
    """Return how many rows of logits are held at a time: those that stay in the processor's cache, and enough for its cores."""
    return max(_FEWEST_ROWS, _LOGITS.get(device.type, _LOGITS_ELSEWHERE) // vocabulary)


def _draw_logits(logits: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Draw as `draw` does, from logits [rows, vocabulary], which are written over."""
    weights = logits.sub_(logits.amax(-1, keepdim=True)).exp_()
    ids, totals = _search(weights, uniforms.view(len(logits), -1))
    log_probs = (weights.gather(1, ids) / totals).log()
    return ids.view(uniforms.shape), log_probs.view(uniforms.shape)


def filtered_draw(logits: Tensor, params: SamplingParams, uniforms: Tensor) -> Tensor:
    """Draw one id a row from `filter_logits` logits, without sorting them: top-p and min-p by rejection.

    A token drawn from all is kept if those likelier than it hold less than the share, which one pass tells. Where all tries
    fail, for top-k, and where there is one number a row, the filter itself is computed.

    Args:
        logits: [rows, vocabulary], temperature included.
        params: the filters.
        uniforms: [rows, tries + 1], in [0, 1); the last are for the filter itself.

    Returns:
        [rows], ids.
    """
    if params.top_k or params.top_p < _REJECTS_MOST or uniforms.shape[1] == 1:
        return inverse_cdf(filter_logits(logits, params).softmax(-1), uniforms[:, 0])
    weights = logits.sub(logits.amax(-1, keepdim=True)).exp_()
    ids = inverse_cdf(weights, uniforms[:, 0])
    left = (~_passes(weights, ids, params)).nonzero().squeeze(1)
    for again in uniforms[:, 1:-1].T:
        if not len(left):
            return ids
        ids[left] = inverse_cdf(weights[left], again[left])
        left = left[~_passes(weights[left], ids[left], params)]
    ids[left] = inverse_cdf(filter_logits(logits[left], params).softmax(-1), uniforms[left, -1])
    return ids


def _passes(weights: Tensor, ids: Tensor, params: SamplingParams) -> Tensor:
    """Tell which tokens [rows] are among those that top-p and min-p leave.

    The highest of the weights [rows, vocabulary] are 1.
    """
    own = weights.gather(1, ids[:, None])
    likelier = torch.where(weights > own, weights, 0.0).sum(-1)
    return (likelier < params.top_p * weights.sum(-1)) & (own.squeeze(1) >= params.min_p)


def filter_logits(logits: Tensor, params: SamplingParams) -> Tensor:
    """Return logits [rows, vocabulary] with the tokens that top-k, top-p and min-p take away at minus infinity."""
    if 0 < params.top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(params.top_k).values[:, -1:], -math.inf)
    if params.top_p < 1:
        logits = _nucleus(logits, params.top_p)
    if params.min_p > 0:
        best = logits.max(-1, keepdim=True).values
        logits = logits.masked_fill(logits < best + math.log(params.min_p), -math.inf)
    return logits


def _nucleus(logits: Tensor, share: float) -> Tensor:
    """Filter by top-p; only as many of the likeliest tokens are sorted as hold the share in every row.

    Since sorting all is slow.
    """
    probabilities = logits.softmax(-1)
    width = min(_NUCLEUS, logits.shape[-1])
    while True:
        best, positions = probabilities.topk(width)
        upto = best.cumsum(-1)
        if width == logits.shape[-1] or bool((upto[:, -1] >= share).all()):
            break
        width = min(4 * width, logits.shape[-1])
    kept = logits.gather(-1, positions).masked_fill(upto - best >= share, -math.inf)
    return torch.full_like(logits, -math.inf).scatter(-1, positions, kept)


def inverse_cdf(weights: Tensor, uniforms: Tensor) -> Tensor:
    """Draw one id a row by inverting the cumulative distribution in two levels: first a block of 64 ids, then the id in it.

    Args:
        weights: [rows, vocabulary], float32, not negative: probabilities, or what is proportional to them.
        uniforms: [rows], in [0, 1).

    Returns:
        [rows], ids; never one of weight 0. Adding up V / 64 blocks and one block costs one pass over the weights where
        `torch.multinomial` draws a random number for each.
    """
    return _search(weights, uniforms[:, None])[0].squeeze(1)


def _search(weights: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Return ids [rows, draws] for `uniforms` of that shape, and the sums [rows, 1] of the weights."""
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
