"""Adversarial training of a generator against a discriminator, by policy gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from emogen.data.batches import Batch
from emogen.decoding.rollout import rollout_returns
from emogen.decoding.sampling import Generated, Prefixes, generate, inverse_cdf
from emogen.errors import TrainingError
from emogen.losses import (
    bradley_terry,
    clipped_policy_loss,
    entropy,
    leave_one_out,
    policy_kl,
    prefix_cross_entropy,
)
from emogen.models.discriminator import AnyDiscriminator, score
from emogen.models.generator import Generator, reply_mask
from emogen.models.transformer import present_tokens
from emogen.text import PAD
from emogen.train.config import GanConfig
from emogen.train.state import Step, TrainState, mixed_precision, scheduled, update

_ACCURACY_MEMORY = 0.9


@dataclass(frozen=True)
class Adversaries:
    """The models of adversarial training; `reference` is the generator as it was at the start, and stays so."""

    generator: Generator
    reference: Generator
    discriminator: AnyDiscriminator


@dataclass(frozen=True)
class Experience:
    """Generated replies and what they are worth.

    Attributes:
        generated: [rows, time], `samples` rows for each condition, one after another.
        condition: [rows, emotions + 1 + latent].
        mask: [rows, time - 1], true at the places of reply tokens.
        advantages: the same shape.
        old_log_probs: the same shape, of the tokens taken.
        reward: mean reward of the whole replies.
    """

    generated: Generated
    condition: Tensor
    mask: Tensor
    advantages: Tensor
    old_log_probs: Tensor
    reward: float


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
        moved = batch.to(device)
        warming = state.step < config.warmup_steps
        with mixed_precision(config.precision, device):
            generated, condition = sample_replies(models.generator, moved, config, state.random, not warming)
            _check_samples(generated, state)
            figures = _discriminator_step(models.discriminator, moved, generated, config, state)
            if not warming:
                figures |= _generator_step(models, moved, generated, condition, config, state)
        state.step += 1
        yield Step(state.step, figures)


def sample_replies(
    generator: Generator, batch: Batch, config: GanConfig, random: torch.Generator, keep_states: bool = True
) -> tuple[Generated, Tensor]:
    """`config.samples` replies for each condition of `batch`, drawn at temperature 1, and their conditions.

    A latent, where the generator has one, is drawn from the prior for each reply.
    """
    device = batch.tokens.device
    starts = batch.reply_start.repeat_interleave(config.samples)
    emotion = batch.emotion.repeat_interleave(config.samples, 0)
    latent = torch.randn(len(starts), generator.config.latent, generator=random).to(device)
    prefix = batch.tokens[:, : int(batch.reply_start.max())].repeat_interleave(config.samples, 0)
    prefix = prefix.masked_fill(torch.arange(prefix.shape[1], device=device) >= starts[:, None], PAD)
    condition = torch.cat([emotion, latent], 1)

    def choose(scores: Tensor, _rows: Tensor, _number: int) -> Tensor:
        return inverse_cdf(scores.float().softmax(-1), torch.rand(len(scores), generator=random).to(device))

    return generate(generator, Prefixes(prefix, starts, condition), config.max_tokens, choose, keep_states), condition


@torch.no_grad()
def gather_experience(
    generator: Generator,
    discriminator: AnyDiscriminator,
    batch: Batch,
    generated: Generated,
    condition: Tensor,
    config: GanConfig,
    random: torch.Generator,
) -> Experience:
    """What each token of `generated` is worth by the estimator of the config, less the leave-one-out baseline."""
    mask = reply_mask(generated.tokens, generated.reply_start)
    emotion = batch.emotion.repeat_interleave(config.samples, 0)
    if config.estimator == "dense":
        probability = score(discriminator, generated.tokens, emotion, config.chunk).sigmoid()
        returns = dense_returns(probability, mask, config.discount)
        worth = _at_end(probability, generated.tokens)
    else:
        reward = relative_reward(discriminator, batch, config)
        returns = rollout_returns(
            generator, generated, condition, config.max_tokens, reward, config.rollouts, random, config.chunk
        )
        worth = _at_end(returns, generated.tokens[:, 1:])
    grouped = (len(batch), config.samples, mask.shape[1])
    advantages = leave_one_out(returns.view(grouped), mask.view(grouped)).view(mask.shape)
    return Experience(
        generated,
        condition,
        mask,
        advantages,
        token_log_probs(generator, generated.tokens, condition, mask)[0],
        float(worth.mean()),
    )


def relative_reward(discriminator: AnyDiscriminator, batch: Batch, config: GanConfig) -> Callable[[Tensor, Tensor], Tensor]:
    """The reward of a generated row: the probability that the discriminator prefers it to the real reply of its condition."""
    rivals = score(discriminator, batch.tokens, batch.emotion, config.chunk)

    def reward(tokens: Tensor, rows: Tensor) -> Tensor:
        condition = rows // config.samples
        return (score(discriminator, tokens, batch.emotion[condition], config.chunk) - rivals[condition]).sigmoid()

    return reward


def dense_returns(probability: Tensor, mask: Tensor, discount: float) -> Tensor:
    """Return of each token from one causal pass: discounted sum of the rises of the probability of being real.

    A reward p(prefix with the token) - p(prefix before it) adds up to the whole text's probability, so that no reply gains by
    being longer (potential-based shaping; Ng, Harada & Russell 1999).

    Args:
        probability: [rows, time], that the text up to each place is real.
        mask: [rows, time - 1], from `reply_mask`.
        discount: of later rises; 1 for none.

    Returns:
        [rows, time - 1], aligned with `mask`, 0 outside it.
    """
    rises = (probability[:, 1:] - probability[:, :-1]) * mask
    returns = torch.zeros_like(rises)
    later = rises.new_zeros(len(rises))
    for place in reversed(range(rises.shape[1])):
        later = rises[:, place] + discount * later
        returns[:, place] = later
    return returns * mask


def policy_loss(
    generator: Generator, reference: Generator, experience: Experience, config: GanConfig
) -> tuple[Tensor, dict[str, float]]:
    """The generator's loss on its experience, and the figures that go with it."""
    mask = experience.mask
    taken, log_probs = token_log_probs(generator, experience.generated.tokens, experience.condition, mask)
    with torch.no_grad():
        _, start = token_log_probs(reference, experience.generated.tokens, experience.condition, mask)
    gain = clipped_policy_loss(taken, experience.old_log_probs, experience.advantages, mask, config.clip)
    divergence, spread, floor = policy_kl(log_probs, start).mean(), entropy(log_probs).mean(), entropy(start).mean()
    lack = (config.entropy_floor * floor - spread).clamp(min=0)
    loss = gain + config.kl_weight * divergence + config.entropy_weight * lack
    return loss, {
        "reward": experience.reward,
        "kl": float(divergence.detach()),
        "entropy": float(spread.detach()),
        "length": float(mask.sum(1).float().mean()),
    }


def token_log_probs(generator: Generator, tokens: Tensor, condition: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Log probabilities of rows under a generator.

    Returns:
        Of the tokens taken [rows, time - 1], 0 outside the mask, and of all tokens [places in the mask, vocabulary].
    """
    log_probs = generator.logits(generator(tokens[:, :-1], condition)[mask]).float().log_softmax(-1)
    taken = torch.zeros(mask.shape, device=tokens.device)
    taken[mask] = log_probs.gather(1, tokens[:, 1:][mask][:, None]).squeeze(1)
    return taken, log_probs


def cut_to(batch: Batch, max_tokens: int) -> Batch:
    """Rows whose replies are no longer than a generator may write, so that length alone does not give them away."""
    ends = batch.reply_start + max_tokens
    places = torch.arange(batch.tokens.shape[1], device=batch.tokens.device)
    tokens = batch.tokens.masked_fill(places >= ends[:, None], PAD)
    return Batch(tokens, batch.reply_start, batch.emotion)


def discriminator_loss(discriminator: AnyDiscriminator, real: Batch, generated: Tensor, samples: int) -> tuple[Tensor, Tensor]:
    """The discriminator's loss on real replies and generated ones to the same conditions, and its pairwise accuracy.

    Args:
        discriminator: reads sequences (pairs compared) or prefixes (each prefix told apart).
        real: one row a condition.
        generated: [conditions * samples, time].
        samples: generated rows a condition.
    """
    emotion = real.emotion.repeat_interleave(samples, 0)
    on_real, on_generated = discriminator(real.tokens, real.emotion), discriminator(generated, emotion)
    if discriminator.reading == "sequence":
        real_scores = on_real.repeat_interleave(samples)
        return bradley_terry(real_scores, on_generated), (real_scores > on_generated).float().mean()
    real_seen = _after_start(real.tokens, real.reply_start)
    generated_seen = _after_start(generated, real.reply_start.repeat_interleave(samples))
    loss = prefix_cross_entropy(on_real, True, real_seen) + prefix_cross_entropy(on_generated, False, generated_seen)
    ends = _at_end(on_real, real.tokens).repeat_interleave(samples), _at_end(on_generated, generated)
    return loss / 2, (ends[0] > ends[1]).float().mean()


def _after_start(tokens: Tensor, reply_start: Tensor) -> Tensor:
    places = torch.arange(tokens.shape[1], device=tokens.device)
    return (places >= reply_start[:, None] - 1) & present_tokens(tokens)


def _at_end(scores: Tensor, tokens: Tensor) -> Tensor:
    return scores.gather(1, present_tokens(tokens).sum(1, keepdim=True) - 1).squeeze(1)


def _check_samples(generated: Generated, state: TrainState) -> None:
    if not bool(generated.log_probs.isfinite().all()):
        raise TrainingError(f"step {state.step + 1}: the generator's probabilities are not finite; lower the learning rate")


def _discriminator_step(
    discriminator: AnyDiscriminator, batch: Batch, generated: Generated, config: GanConfig, state: TrainState
) -> dict[str, float]:
    discriminator.train()
    loss, accuracy = discriminator_loss(discriminator, cut_to(batch, config.max_tokens), generated.tokens, config.samples)
    running = state.figures.get("accuracy", 0.5)
    running = _ACCURACY_MEMORY * running + (1 - _ACCURACY_MEMORY) * float(accuracy)
    state.figures["accuracy"] = running
    if running <= config.accuracy_ceiling:
        update(loss, state.optimizers["discriminator"], config.discriminator_rate, state)
    return {"discriminator": float(loss.detach()), "accuracy": running}


def _generator_step(
    models: Adversaries, batch: Batch, generated: Generated, condition: Tensor, config: GanConfig, state: TrainState
) -> dict[str, float]:
    generator = models.generator
    experience = gather_experience(
        generator, models.discriminator, cut_to(batch, config.max_tokens), generated, condition, config, state.random
    )
    figures: dict[str, float] = {}
    for _ in range(config.generator_updates):
        loss, figures = policy_loss(generator, models.reference, experience, config)
        update(loss, state.optimizers["generator"], scheduled(config.learning_rate, state), state)
    return figures
