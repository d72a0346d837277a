"""The estimator `gumbel`: the discriminator's slope at the sampled words, let through to the generator's scores."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from emogen.data.batches import Batch
from emogen.decoding.counter_rng import CounterRNG
from emogen.decoding.loop import Generated
from emogen.errors import SettingsError
from emogen.models.discriminator import (
    AnyDiscriminator,
    Discriminator,
    PretrainedDiscriminator,
    of_whole_texts,
    score,
    without_dropout,
)
from emogen.models.generator import Generator, reply_mask
from emogen.models.likelihood_ratio import LikelihoodRatioDiscriminator
from emogen.models.losses import leave_one_out
from emogen.text.tokenizer import EOS

_BITS = 24
_FACTORS = (-0x7A143595, -0x3D4D51CB)
_PIECE = 32
_RAREST = 1e-30


@dataclass(frozen=True)
class Relaxation:
    """How words become differentiable.

    Attributes:
        temperature: of the relaxed words; the lower, the less biased and the noisier the gradient.
        noises: draws of Gumbel noise a word that the gradient is averaged over.
        chunk: places whose scores of the whole vocabulary, and rows of the discriminator, that are held at once.
    """

    temperature: float
    noises: int = 1
    chunk: int = 256


def anneal(first: float, final: float, progress: float) -> float:
    """Return the temperature at `progress` 0 to 1 through a run: from `first` to `final`, by the same factor at each step.

    Source: Nie, Narodytska & Patel 2019 (RelGAN), section 3.3, the exponential policy; theirs begins at 1.

    >>> [round(anneal(1.0, 0.01, progress), 6) for progress in (0.0, 0.5, 1.0)]
    [1.0, 0.1, 0.01]
    """
    return first * math.exp(progress * math.log(final / first))


def gumbel_loss(
    generator: Generator,
    discriminator: AnyDiscriminator,
    real: Batch,
    generated: Generated,
    condition: Tensor,
    relaxation: Relaxation,
    draws: CounterRNG,
) -> Tensor:
    """Relativistic loss of replies that were sampled, with a gradient that goes through their words to the generator alone.

    Its value is the mean of -log sigmoid(D(generated) - D(real)), D of whole texts (with the prefix reading: at their last
    token). Its gradient is the straight-through one: a word counts forward as its own vector and backward as the relaxed
    word softmax((scores + Gumbel noise) / temperature), for noise under which the sampled word is the likeliest. Whether a
    reply ends is no matter of vectors, since nothing is read behind the end: where it ended and where it went on instead is
    learnt by the score function, from the row's loss less the mean of the other samples'.

    Replies come from the token loop, and the generator reads them once more, all places at a time; so no graph over as many
    steps as there are tokens is kept. Left out thereby is that another word would have made other words follow. On languages
    that are small enough to be enumerated that term doubled the cost and, but for scores linear in the words, the gradient
    came no nearer to the exact one.

    Args:
        generator: its mode is left alone; the one that sampled is wanted, eval.
        discriminator: gets no gradient, and is left in its mode.
        real: one reply a condition, cut to the length that generated ones may have.
        generated: of len(real) conditions the same number of rows each, at least 2, one after another, drawn at temperature 1.
        condition: [rows, emotions + 1 + latent], that they were sampled with.
        relaxation: the options.
        draws: of the noise; another key at each update, and not the one of the words.

    Returns:
        Scalar.

    Raises:
        SettingsError: the discriminator has no word vectors of its own.

    Source: Nie, Narodytska & Patel 2019 (RelGAN); noise given the word, averaged: Paulus, Maddison & Krause 2021; baseline of
    the ends: Kool, van Hoof & Welling 2019.
    """
    if isinstance(discriminator, PretrainedDiscriminator | LikelihoodRatioDiscriminator):
        raise SettingsError("--estimator gumbel: this discriminator has no word vectors to learn from; use --estimator rollout")
    losses, gradients = _word_slopes(discriminator, real, generated.tokens, relaxation.chunk)
    mask = reply_mask(generated.tokens, generated.reply_start)
    grouped = losses.view(len(real), -1, 1)
    advantages = leave_one_out(grouped, torch.ones_like(grouped, dtype=torch.bool)).view(-1, 1).expand(mask.shape)
    words = _Words(
        taken=generated.tokens[:, 1:][mask],
        gradients=gradients[:, 1:][mask],
        vectors=discriminator.embedding.weight.detach(),
        advantages=advantages[mask] / len(mask),
        noise=_Noise(draws, mask, relaxation.noises, generator.config.vocabulary),
    )
    states = generator(generated.tokens[:, :-1], condition)[mask]
    by_state, by_head = _score_slopes(generator, states.detach(), words, relaxation)
    carrier = (states * by_state).sum()
    for parameter, slope in zip(_head(generator), by_head, strict=True):
        carrier = carrier + (parameter * slope).sum()
    loss: Tensor = losses.mean() + (carrier - carrier.detach())
    return loss


def perturbed_scores(probabilities: Tensor, taken: Tensor, exponentials: Tensor) -> Tensor:
    """Log probabilities plus standard Gumbel noise, drawn given that those of the taken ids come out highest.

    Args:
        probabilities: [places, vocabulary]; an id of probability 0 gets minus infinity.
        taken: [places], ids.
        exponentials: [places, vocabulary], draws of the standard exponential distribution, above 0.

    Source: Maddison, Tarlow & Minka 2014, section 3 (top-down construction); in this form Paulus, Maddison & Krause 2021.
    """
    highest = exponentials.gather(1, taken[:, None])
    waits: Tensor = torch.div(exponentials, probabilities).add_(highest).scatter_(1, taken[:, None], highest)
    return waits.log_().neg_()


class _Noise:
    """Exponential random numbers [places, vocabulary] that depend on key, row and place, whatever is drawn beside them.

    Places and ids have a number each from `CounterRNG`; the two are mixed in 32 bits, as that is done for each id at
    each place.
    """

    def __init__(self, draws: CounterRNG, mask: Tensor, number: int, vocabulary: int) -> None:
        rows, times = mask.nonzero().unbind(1)
        self.positions = torch.stack([_integers(draws, rows, times, each) for each in range(number)])
        self.ids = _integers(CounterRNG(draws.key), torch.arange(vocabulary, device=rows.device), -1, -1)

    def exponentials(self, draw: int, part: slice) -> Tensor:
        """Return those of the numbered draw, for some of the places.

        Source: rounds of MurmurHash3's 32-bit finaliser (Appleby 2011).
        """
        value: Tensor = self.positions[draw, part, None] ^ self.ids
        value ^= (value >> 16) & 0xFFFF
        value *= _FACTORS[0]
        value ^= (value >> 13) & 0x7FFFF
        value *= _FACTORS[1]
        value >>= 32 - _BITS
        value &= (1 << _BITS) - 1
        waits: Tensor = value.to(torch.float32).add_(0.5).mul_(2.0**-_BITS).log_().neg_()
        return waits


@dataclass(frozen=True)
class _Words:
    """The sampled tokens of all replies, one after another.

    Attributes:
        taken: [places], their ids.
        slopes: [places, width], of the loss by their vectors.
        vectors: [vocabulary, width], the discriminator's.
        advantages: [places], the loss of their row beyond the others', as a part of the mean over rows.
        noise: of these places.
    """

    taken: Tensor
    gradients: Tensor
    vectors: Tensor
    advantages: Tensor
    noise: _Noise


def _integers(draws: CounterRNG, rows: Tensor, *counters: Tensor | int) -> Tensor:
    high, low = (draws.uniforms(rows, *counters, half) for half in range(2))
    bits: Tensor = (high * 2**_BITS).to(torch.int32) * 2 ** (32 - _BITS) + (low * 2 ** (32 - _BITS)).to(torch.int32)
    return bits


def _word_slopes(discriminator: Discriminator, real: Batch, tokens: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    """Relativistic losses [rows], and slopes of their mean by the word vectors [rows, time, width] of the generated rows."""
    samples = len(tokens) // len(real)
    real_scores = of_whole_texts(score(discriminator, real.tokens, real.emotion), real.tokens).repeat_interleave(samples)
    emotion = real.emotion.repeat_interleave(samples, 0)
    losses, gradients = [], []
    with without_dropout(discriminator):
        pieces = (torch.split(rows, chunk) for rows in (tokens, emotion, real_scores))
        for own, target, rival in zip(*pieces, strict=True):
            vectors = discriminator.embedding(own).detach().requires_grad_()
            losses.append(functional.softplus(rival - of_whole_texts(discriminator(own, target, vectors), own)))
            gradients.append(torch.autograd.grad(losses[-1].sum() / len(tokens), vectors)[0])
    return torch.cat(losses).detach(), torch.cat(gradients)


def _score_slopes(generator: Generator, states: Tensor, words: _Words, relaxation: Relaxation) -> tuple[Tensor, list[Tensor]]:
    """Return slopes by the states and by the parameters in `_head`.

    No more than a chunk of places has its scores held at once.
    """
    head = _head(generator)
    by_state, by_head = torch.empty_like(states), [torch.zeros_like(parameter) for parameter in head]
    for first in range(0, len(states), relaxation.chunk):
        part = slice(first, min(first + relaxation.chunk, len(states)))
        own = states[part].requires_grad_()
        scores = generator.logits(own)
        wanted = _relaxed_slopes(scores.detach(), words, part, relaxation)
        by_state[part], *more = torch.autograd.grad(scores, [own, *head], wanted.to(scores.dtype))
        for total, slope in zip(by_head, more, strict=True):
            total += slope
    return by_state, by_head


def _relaxed_slopes(scores: Tensor, words: _Words, part: slice, relaxation: Relaxation) -> Tensor:
    """Return slopes [places in the part, vocabulary] by the scores; computed in pieces that a processor's cache holds."""
    reward = (words.gradients[part] @ words.vectors.T).float()
    for at in range(0, len(reward), _PIECE):
        piece = slice(at, at + _PIECE)
        positions = slice(part.start + at, min(part.start + at + _PIECE, part.stop))
        reward[piece] = _slopes_at(scores[piece].float().softmax(-1), reward[piece], words, positions, relaxation)
    return reward


def _slopes_at(probabilities: Tensor, reward: Tensor, words: _Words, positions: slice, relaxation: Relaxation) -> Tensor:
    taken, going_on = words.taken[positions], (1 - probabilities[:, EOS]).clamp(min=_RAREST)
    wanted = _end_slopes(probabilities, going_on, taken == EOS, words.advantages[positions])
    probabilities = probabilities.div_(going_on[:, None])
    probabilities[:, EOS] = 0.0
    share = (taken != EOS)[:, None] / (relaxation.temperature * relaxation.noises)
    for draw in range(relaxation.noises):
        perturbed = perturbed_scores(probabilities, taken, words.noise.exponentials(draw, positions))
        word = perturbed.div_(relaxation.temperature).softmax(-1)
        mean = (word * reward).sum(-1, keepdim=True)
        wanted += word.mul_(share).mul_(reward - mean)
    return wanted


def _end_slopes(probabilities: Tensor, going_on: Tensor, ended: Tensor, advantages: Tensor) -> Tensor:
    """Return gradients of the log probability that a reply ended, or went on, times the advantage."""
    odds = torch.where(ended, 1.0, -probabilities[:, EOS] / going_on) * advantages
    wanted = probabilities * -odds[:, None]
    wanted[:, EOS] += odds
    return wanted


def _head(generator: Generator) -> list[Tensor]:
    """Return the parameters in training that `Generator.logits` uses."""
    vectors = generator.embedding if generator.output is None else generator.output
    return [parameter for parameter in (vectors.weight, generator.bias) if parameter.requires_grad]
