"""Maximum-likelihood training of a generator."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from emogen.data.batches import Batch
from emogen.models.generator import Generator
from emogen.models.likelihood import reply_nll
from emogen.models.losses import masked_mean
from emogen.train.config import MleConfig
from emogen.train.run.processes import joint, total
from emogen.train.run.state import Step, TrainState, learning_rate_at, mixed_precision, update, usual_tokens


def train_mle(generator: Generator, batches: Iterable[Batch], config: MleConfig, state: TrainState) -> Iterator[Step]:
    """Update `generator` in place on one batch after another, with the optimizer `state.optimizers["generator"]`.

    Yields after each update; stop by not asking for the next one.

    Raises:
        TrainingError: the loss is not finite; the generator keeps its last weights.
    """
    device = generator.bias.device
    for batch in batches:
        generator.train()
        moved = drop_emotion(batch.to(device), config.emotion_dropout, state.random)
        with mixed_precision(config.precision, device):
            nll, mask = reply_nll(generator, moved.tokens, moved.reply_start, with_no_latent(generator, moved.emotion))
        tokens = total(mask.sum())
        nats = joint(nll.sum())
        taken = update(
            nats / usual_tokens(tokens, state),
            state.optimizers["generator"],
            learning_rate_at(config.learning_rate, state),
            state,
        )
        state.step += 1
        yield Step(state.step, {"nll": float(nats.detach() / tokens), "tokens": int(tokens), **taken})


def with_no_latent(generator: Generator, emotion: Tensor) -> Tensor:
    """Return the condition of rows whose latent, if the generator has one, is the prior's mean."""
    return torch.cat([emotion, generator.prior(emotion).mean], 1)


def drop_emotion(batch: Batch, share: float, random: torch.Generator) -> Batch:
    """Return the batch with about `share` of its rows asking for no emotion.

    Drawn for the whole batch, whoever has its rows.
    """
    dropped = batch.own(torch.rand(batch.whole, generator=random)) < share
    nothing = torch.zeros_like(batch.emotion)
    nothing[:, -1] = 1.0
    return replace(batch, emotion=torch.where(dropped.to(batch.emotion.device)[:, None], nothing, batch.emotion))


@torch.no_grad()
def held_out_nll(generator: Generator, batches: Iterable[Batch]) -> dict[str, float]:
    """Return negative log-likelihood of held-out replies, in the precision of the weights.

    Returns:
        `nll` (nats a token), `nll_reply` (nats a reply) and `perplexity` (a token).
    """
    generator.eval()
    device = generator.bias.device
    nats, tokens, rows = 0.0, 0, 0
    for batch in batches:
        moved = batch.to(device)
        nll, mask = reply_nll(generator, moved.tokens, moved.reply_start, with_no_latent(generator, moved.emotion))
        nats, tokens, rows = nats + float(masked_mean(nll, mask) * mask.sum()), tokens + int(mask.sum()), rows + len(batch)
    return {"nll": nats / tokens, "nll_reply": nats / rows, "perplexity": math.exp(nats / tokens)}
