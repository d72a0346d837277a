"""Training of a generator on pairs of a better and a worse reply."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from emogen.data.batches import Batch, Limits, batch_rows
from emogen.data.preferences import Opined, Preference, Rating
from emogen.models.generator import Generator
from emogen.models.likelihood import reply_nll
from emogen.models.losses import preference_loss, unpaired_loss
from emogen.text.tokenizer import EOS, PAD, Tokenizer
from emogen.train.config import Precision, PreferenceConfig
from emogen.train.loops.mle import with_no_latent
from emogen.train.run.state import Step, TrainState, mixed_precision, update

_HELD_OUT_BATCH = 64
_FIRST_RATE = 0.1
_WARM_SHARE = 0.1


@dataclass(frozen=True)
class PairRows:
    """Pairs in tokens.

    Attributes:
        better: of each pair `context, BOS, reply, EOS`, as a row of a corpus.
        worse: likewise.
        starts: of each pair the place of the first reply token.
        emotion: [pairs, emotions + 1], the condition.
    """

    better: Sequence[Sequence[int]]
    worse: Sequence[Sequence[int]]
    starts: Sequence[int]
    emotion: Tensor

    def __len__(self) -> int:
        return len(self.starts)

    def batch(self, positions: Sequence[int]) -> Batch:
        """Return the better replies of the pairs at `positions`, and behind them the worse ones in the same order."""
        rows = [torch.tensor(side[place]) for side in (self.better, self.worse) for place in positions]
        starts = torch.tensor([self.starts[place] for place in positions])
        tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)
        return Batch(tokens, starts.repeat(2), self.emotion[list(positions)].repeat(2, 1))


@dataclass(frozen=True)
class PairBatch:
    """What an update learns from.

    Attributes:
        rows: [2 * pairs], as of `PairRows.batch`.
        before: [2, pairs], log probability of the better and of the worse replies under the model as it was.
    """

    rows: Batch
    before: Tensor


@dataclass(frozen=True)
class RatedRows:
    """Rated replies in tokens, each beside another context's reply.

    Attributes:
        rows: `better` are the replies to their own contexts, `worse` each context with the reply of the next: such mismatched
            pairs say how far the model has moved in general.
        good: [replies], bool.
    """

    rows: PairRows
    good: Tensor

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class RatedBatch:
    """What an update learns from: as `PairBatch`, with `good` [replies], bool."""

    pairs: PairBatch
    good: Tensor


def rated_rows(ratings: Sequence[Rating], tokenizer: Tokenizer, limits: Limits) -> RatedRows:
    """Encode ratings; arguments as for `pair_rows`."""
    others = [*ratings[1:], *ratings[:1]]
    pairs = [
        Preference(rating.context, rating.emotion, rating.reply, other.reply)
        for rating, other in zip(ratings, others, strict=True)
    ]
    return RatedRows(pair_rows(pairs, tokenizer, limits), torch.tensor([rating.is_good for rating in ratings]))


def rated_batches(rows: RatedRows, before: Tensor, size: int, seed: int, start: int = 0) -> Iterator[RatedBatch]:
    """Yield batches without end; arguments as for `pair_batches`."""
    for positions in _places(rows.rows, size, seed, start):
        yield RatedBatch(PairBatch(rows.rows.batch(positions.tolist()), before[:, positions]), rows.good[positions])


def drop_long(pairs: Sequence[Opined], tokenizer: Tokenizer, limits: Limits) -> list[Opined]:
    """Return the pairs, or ratings, none of whose replies is longer than the model's rows."""
    return [pair for pair in pairs if all(len(tokenizer.encode(reply)) <= limits.reply_tokens for reply in pair.replies)]


def pair_rows(pairs: Sequence[Preference], tokenizer: Tokenizer, limits: Limits) -> PairRows:
    """Return pairs in tokens, contexts as they are written in decoding.

    Args:
        pairs: their emotions over the model's labels.
        tokenizer: the model's.
        limits: the model's; what it leaves out is `drop_long`'s business.
    """
    prefixes = [tokenizer.prefix(pair.context, limits.context_tokens) for pair in pairs]
    better, worse = (
        [[*prefix, *tokenizer.encode(text), EOS] for prefix, text in zip(prefixes, texts, strict=True)]
        for texts in ([pair.better for pair in pairs], [pair.worse for pair in pairs])
    )
    emotion = torch.tensor([pair.emotion.condition for pair in pairs], dtype=torch.float32)
    return PairRows(better, worse, [len(prefix) for prefix in prefixes], emotion)


def pair_batches(rows: PairRows, before: Tensor, size: int, seed: int, start: int = 0) -> Iterator[PairBatch]:
    """Yield batches without end, every epoch in a new order; a pure function of the arguments, so that `start` resumes exactly.

    Args:
        rows: the pairs.
        before: [2, pairs], from `pair_log_probabilities` of the model as it was.
        size: pairs a batch; the last batch of an epoch may be smaller.
        seed: of the order.
        start: number of batches to pass over.
    """
    for positions in _places(rows, size, seed, start):
        yield PairBatch(rows.batch(positions.tolist()), before[:, positions])


def _places(rows: PairRows, size: int, seed: int, start: int) -> Iterator[NDArray[np.int64]]:
    lengths = np.array([max(map(len, pair)) for pair in zip(rows.better, rows.worse, strict=True)])
    return batch_rows(lengths, size, seed, start)


def train_preference(
    generator: Generator, batches: Iterable[PairBatch], config: PreferenceConfig, state: TrainState
) -> Iterator[Step]:
    """Update `generator` in place on one batch after another, with the optimizer `state.optimizers["generator"]`.

    The generator stays in eval mode: dropout would hide how far it is from where it was. The likelihood of the better reply
    keeps its place in the loss because the margin alone also falls where both replies lose, the worse one more.

    Yields after each update; stop by not asking for the next one.

    Raises:
        TrainingError: the loss is not finite; the generator keeps its last weights.

    Source: Rafailov et al. 2023; with the likelihood, a token: Pang et al. 2024, equation 1.
    """
    device = generator.bias.device
    generator.eval()
    for batch in batches:
        rows, before = batch.rows.to(device), batch.before.to(device)
        now, tokens = _log_probabilities(generator, rows, config.precision)
        margins = (now - before)[0] - (now - before)[1]
        pairs = preference_loss(now[0], now[1], before[0], before[1], config.beta, config.smoothing)
        nll = (-now[0] / tokens[0]).mean()
        loss = pairs.mean() + config.likelihood_weight * nll
        taken = update(loss, state.optimizers["generator"], _rate_now(config.learning_rate, state), state)
        state.step += 1
        figures = {"loss": pairs.mean(), "nll": nll, "margin": margins.mean(), "preferred": (margins > 0).float().mean()}
        yield Step(state.step, taken | {name: float(value.detach()) for name, value in figures.items()})


def train_unpaired(
    generator: Generator, batches: Iterable[RatedBatch], config: PreferenceConfig, state: TrainState
) -> Iterator[Step]:
    """Update `generator` in place on rated replies, as `train_preference` does on pairs.

    Good and bad replies of a batch weigh alike in sum, however many there are of each. The reference point is the batch's mean
    gain of mismatched replies, 0 at least: an estimate of the KL to the model as it was.

    Yields after each update; stop by not asking for the next one.

    Raises:
        TrainingError: the loss is not finite; the generator keeps its last weights.

    Source: Ethayarajh et al. 2024 (KTO); the likelihood of good replies beside it as in `train_preference`.
    """
    device = generator.bias.device
    generator.eval()
    for batch in batches:
        rows, before, good = batch.pairs.rows.to(device), batch.pairs.before.to(device), batch.good.to(device)
        now, tokens = _log_probabilities(generator, rows, config.precision)
        gain, others = (now - before)[0], (now - before)[1]
        reference = others.detach().mean().clamp(min=0.0)
        loss = unpaired_loss(gain, good, reference, config.beta, _even_weights(good)).mean()
        nll = (-now[0] / tokens[0] * good).sum() / good.sum().clamp(min=1)
        taken = update(
            loss + config.likelihood_weight * nll, state.optimizers["generator"], _rate_now(config.learning_rate, state), state
        )
        state.step += 1
        figures = {"loss": loss, "nll": nll, "reference": reference, "separated": separation(gain.detach(), good)}
        yield Step(state.step, taken | {name: float(value.detach()) for name, value in figures.items()})


def _even_weights(good: Tensor) -> tuple[float, float]:
    count = int(good.sum())
    return len(good) / (2 * max(count, 1)), len(good) / (2 * max(len(good) - count, 1))


def separation(gain: Tensor, good: Tensor) -> Tensor:
    """Compute the share of all pairs of a good and a bad reply whose good one has gained more; ties count half.

    Args:
        gain: [replies], nats.
        good: [replies], bool.

    Returns:
        A scalar, the area under the ROC curve; one half where there are none of either.
    """
    margins = gain[good][:, None] - gain[~good]
    return ((margins > 0).float() + 0.5 * (margins == 0)).mean() if margins.numel() else torch.tensor(0.5)


def held_out_unpaired(generator: Generator, rows: RatedRows, before: Tensor, config: PreferenceConfig) -> dict[str, float]:
    """Compute `loss` and `separation` of held-out ratings; `before` is [2, replies] as of `pair_log_probabilities`."""
    now = pair_log_probabilities(generator, rows.rows, config.precision)
    gain, others = now - before
    loss = unpaired_loss(gain, rows.good, others.mean().clamp(min=0.0), config.beta, _even_weights(rows.good)).mean()
    return {"loss": float(loss), "separated": float(separation(gain, rows.good))}


def _rate_now(rate: float, state: TrainState) -> float:
    """Return the learning rate: up over the first tenth of the run, then down to 0; by shares, since pairs are often few."""
    return rate * min(_FIRST_RATE + state.progress / _WARM_SHARE, 1.0) * (1 - min(state.progress, 1.0))


@torch.no_grad()
def pair_log_probabilities(generator: Generator, rows: PairRows, precision: Precision) -> Tensor:
    """Log probability of the better and of the worse reply of each pair, in nats.

    Args:
        generator: put in eval mode.
        rows: the pairs.
        precision: that of training, so that a model that has not changed has lost and gained nothing.

    Returns:
        [2, pairs], float32, on the CPU.
    """
    generator.eval()
    found = []
    for at in range(0, len(rows), _HELD_OUT_BATCH):
        batch = rows.batch(range(at, min(at + _HELD_OUT_BATCH, len(rows))))
        found.append(_log_probabilities(generator, batch.to(generator.bias.device), precision)[0].cpu())
    return torch.cat(found, 1)


def _log_probabilities(generator: Generator, rows: Batch, precision: Precision) -> tuple[Tensor, Tensor]:
    """Return those of better and worse replies, and how many tokens each has; both [2, pairs]."""
    with mixed_precision(precision, generator.bias.device):
        nll, mask = reply_nll(generator, rows.tokens, rows.reply_start, with_no_latent(generator, rows.emotion))
    return -nll.sum(1).view(2, -1), mask.sum(1).view(2, -1)


def held_out_preference(generator: Generator, rows: PairRows, before: Tensor, config: PreferenceConfig) -> dict[str, float]:
    """Measure on held-out pairs `loss`, `margin` (nats).

    `preferred`, the share whose better reply has gained on the worse one.
    """
    now = pair_log_probabilities(generator, rows, config.precision)
    margins = (now - before)[0] - (now - before)[1]
    loss = preference_loss(now[0], now[1], before[0], before[1], config.beta, config.smoothing)
    figures = {"loss": loss.mean(), "margin": margins.mean(), "preferred": (margins > 0).float().mean()}
    return {name: float(value) for name, value in figures.items()}
