"""Adversarial training of a generator against a discriminator."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from emogen.data.batches import Batch
from emogen.decoding.draws import Draws
from emogen.decoding.sampling import Generated
from emogen.errors import TrainingError
from emogen.train.config import GanConfig
from emogen.train.experience import (
    Adversaries,
    Replies,
    gather_experience,
    likelihood_loss,
    policy_loss,
    sample_replies,
)
from emogen.train.gumbel import Relaxation, annealed, gumbel_loss
from emogen.train.opponent import cut_to, train_discriminator
from emogen.train.processes import joint_mean
from emogen.train.state import Step, TrainState, mixed_precision, scheduled, update


def train_gan(models: Adversaries, batches: Iterable[Batch], config: GanConfig, state: TrainState) -> Iterator[Step]:
    """Adversarial updates from state.step on, in place.

    The first `warmup_steps` steps update the discriminator alone. Yields after each step; stop by not asking for the next one.

    Raises:
        TrainingError: a loss is not finite; the models keep their last weights.
    """
    device = models.generator.bias.device
    models.reference.eval()
    for batch in batches:
        models.generator.eval()
        real = cut_to(batch.to(device), config.max_tokens)
        draws = fresh_draws(state, real, config)
        with mixed_precision(config.precision, device):
            replies = sample_replies(models, real, config, draws)
            _check_samples(replies.generated, state)
            figures = train_discriminator(models.discriminator, real, replies.generated.tokens, config, state)
            if state.step >= config.warmup_steps:
                figures |= train_generator(models, real, replies, config, state)
        state.step += 1
        yield Step(state.step, figures)


def train_generator(
    models: Adversaries, real: Batch, replies: Replies, config: GanConfig, state: TrainState
) -> dict[str, float]:
    """Updates the generator `generator_updates` times on its replies; returns their figures."""
    experience = gather_experience(models, real, replies, config, fresh_draws(state, real, config))
    figures: dict[str, float] = {}
    old = None
    for _ in range(config.generator_updates):
        loss, old, figures = policy_loss(models, replies, experience, config, old)
        if config.estimator == "gumbel":
            loss = loss + config.discriminator_reward * _relaxed_loss(models, real, replies, config, state)
        if config.mle_weight:
            loss = loss + config.mle_weight * likelihood_loss(models, real, config)
        update(loss, state.optimizers["generator"], scheduled(config.learning_rate, state), state)
    return experience.figures | figures


def _relaxed_loss(models: Adversaries, real: Batch, replies: Replies, config: GanConfig, state: TrainState) -> Tensor:
    temperature = annealed(config.gumbel_temperature, config.gumbel_final, state.progress)
    draws = fresh_draws(state, real, config)
    loss = gumbel_loss(
        models.generator,
        models.discriminator,
        real,
        replies.generated,
        replies.condition,
        Relaxation(temperature, chunk=config.chunk),
        draws,
    )
    return joint_mean(loss, len(replies.mask))


def fresh_draws(state: TrainState, real: Batch, config: GanConfig) -> Draws:
    """Random numbers that were not used before, for the samples of a batch's conditions."""
    return Draws(int(torch.randint(1 << 62, (), generator=state.random)), first=real.before * config.samples)


def _check_samples(generated: Generated, state: TrainState) -> None:
    if not bool(generated.log_probs.isfinite().all()):
        raise TrainingError(f"step {state.step + 1}: the generator's probabilities are not finite; lower the learning rate")
