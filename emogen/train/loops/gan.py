"""Adversarial training of a generator against a discriminator."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from emogen.data.batches import Batch
from emogen.decoding.counter_rng import CounterRNG
from emogen.errors import TrainingError
from emogen.train.config import GanConfig
from emogen.train.gan.discriminator_step import cut_to, train_discriminator
from emogen.train.gan.safeguards import (
    SafeguardConfig,
    Signals,
    check_step,
    distinct_pairs,
    rate_share,
    refresh_discriminator,
    return_to_start,
)
from emogen.train.gan.trajectories import (
    Adversaries,
    Replies,
    Trajectory,
    gather_experience,
    likelihood_loss,
    policy_loss,
    sample_replies,
)
from emogen.train.loops.gumbel import Relaxation, anneal, gumbel_loss
from emogen.train.run.processes import joint_mean, largest
from emogen.train.run.state import Step, TrainState, learning_rate_at, mixed_precision, update


def train_gan(models: Adversaries, batches: Iterable[Batch], config: GanConfig, state: TrainState) -> Iterator[Step]:
    """Adversarial updates from state.step on, in place.

    The first `warmup_steps` steps update the discriminator alone. What goes wrong is handled by the rules of `safeguards`.
    Yields after each step; stop by not asking for the next one.

    Raises:
        TrainingError: a loss is not finite, or goes wrong again and again; the models keep their last weights.
    """
    device = models.generator.bias.device
    models.reference.eval()
    for batch in batches:
        models.generator.eval()
        real = cut_to(batch.to(device), config.max_tokens)
        with mixed_precision(config.precision, device):
            replies = sample_replies(models, real, config, fresh_draws(state, real, config))
            if not bool(replies.generated.log_probs.isfinite().all()):
                raise TrainingError(
                    f"step {state.step + 1}: the generator's probabilities are not finite; lower the learning rate"
                )
            figures = train_discriminator(models.discriminator, real, replies.generated.tokens, config, state)
            found = torch.tensor(distinct_pairs(replies.generated.tokens, replies.mask))
            figures["distinct2"] = float(joint_mean(found, len(replies.mask)))
            if state.step < config.warmup_steps:
                words = check_step(state.step + 1, state.figures, Signals(figures["distinct2"]), _limits(config)).words
            else:
                words = train_generator(models, real, replies, config, state, figures)
        state.step += 1
        yield Step(state.step, figures, words)


def train_generator(
    models: Adversaries, real: Batch, replies: Replies, config: GanConfig, state: TrainState, figures: dict[str, float]
) -> tuple[str, ...]:
    """Update the generator on its replies, unless a rule forbids it; adds to the figures, and return what is to be said."""
    experience = gather_experience(models, real, replies, config, fresh_draws(state, real, config))
    loss, old, found = generator_loss(models, real, replies, experience, config, state)
    figures |= experience.figures | found
    (advantage,) = largest([float(experience.advantages.abs().max())])
    values = {"the reward": figures.get("reward", 0.0), "the largest advantage": advantage, "the loss": float(loss.detach())}
    verdict = check_step(
        state.step + 1, state.figures, Signals(figures["distinct2"], figures["accuracy"], values), _limits(config)
    )
    if verdict.refresh_discriminator:
        refresh_discriminator(models.discriminator, real, replies.generated.tokens)
    if verdict.return_generator:
        return_to_start(models.generator, models.reference, state.optimizers["generator"])
    for number in range(0 if verdict.skip_generator else config.generator_updates):
        if number:
            loss, old, _ = generator_loss(models, real, replies, experience, config, state, old)
        rate = rate_share(state.figures) * learning_rate_at(config.learning_rate, state)
        figures |= update(loss, state.optimizers["generator"], rate, state)
    return verdict.words


def generator_loss(
    models: Adversaries,
    real: Batch,
    replies: Replies,
    experience: Trajectory,
    config: GanConfig,
    state: TrainState,
    old: Tensor | None = None,
) -> tuple[Tensor, Tensor, dict[str, float]]:
    """Return the whole loss of the generator.

    `old`, the second of what is returned and the figures are those of `policy_loss`.
    """
    loss, old, figures = policy_loss(models, replies, experience, config, old)
    if config.estimator == "gumbel":
        loss = loss + config.discriminator_reward * _relaxed_loss(models, real, replies, config, state)
    if config.mle_weight:
        loss = loss + config.mle_weight * likelihood_loss(models, real, config)
    return loss, old, figures


def _limits(config: GanConfig) -> SafeguardConfig:
    return SafeguardConfig(distinct=config.distinct_floor)


def _relaxed_loss(models: Adversaries, real: Batch, replies: Replies, config: GanConfig, state: TrainState) -> Tensor:
    temperature = anneal(config.gumbel_temperature, config.gumbel_final, state.progress)
    draws = fresh_draws(state, real, config)
    loss = gumbel_loss(
        models.generator,
        models.discriminator,
        real,
        replies.generated,
        replies.condition,
        Relaxation(temperature),
        draws,
    )
    return joint_mean(loss, len(replies.mask))


def fresh_draws(state: TrainState, real: Batch, config: GanConfig) -> CounterRNG:
    """Random numbers that were not used before, for the samples of a batch's conditions."""
    return CounterRNG(int(torch.randint(1 << 62, (), generator=state.random)), first=real.before * config.samples)
