"""Generated replies, what each of their tokens is worth, and what the generator learns from that."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from emogen.data.batches import Batch
from emogen.decoding.counter_rng import CounterRNG
from emogen.decoding.loop import Generated, PromptBatch, generate
from emogen.decoding.rollout import rollout_returns
from emogen.decoding.sampler import PlainSampler
from emogen.models.chunks import in_chunks
from emogen.models.discriminator import AnyDiscriminator, of_whole_texts, score
from emogen.models.generator import Generator, reply_mask
from emogen.models.likelihood import reply_nll
from emogen.models.losses import Gaussian, clipped_policy_loss, entropy, leave_one_out, policy_kl
from emogen.models.vae import TextVAE
from emogen.text.tokenizer import PAD
from emogen.train.config import GanConfig
from emogen.train.gan.rewards import Guide, ablate_reward, dense_returns, relative_reward
from emogen.train.run.processes import joint_mean, total

_LATENT = 1 << 32
_SMALLEST = 1e-7
# Rewards that lie nearer to each other are rounding errors of a saturated discriminator.
_LEAST_DEVIATION = 1e-4


@dataclass(frozen=True)
class Adversaries:
    """The models of adversarial training.

    Attributes:
        generator: in training.
        reference: the generator as it was at the start, and stays.
        discriminator: in training.
        encoder: the VAE that the generator was the decoder of, as it was at the start; finds the latents of real replies.
        guide: rewards the emotion that was asked for.
    """

    generator: Generator
    reference: Generator
    discriminator: AnyDiscriminator
    encoder: TextVAE | None = None
    guide: Guide | None = None


@dataclass(frozen=True)
class Replies:
    """Replies that the generator has written.

    Attributes:
        generated: [rows, time], `samples` rows for each condition, one after another.
        condition: [rows, emotions + 1 + latent].
        mask: [rows, time - 1], true at the places of reply tokens.
    """

    generated: Generated
    condition: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Trajectory:
    """What the tokens of replies are worth.

    Attributes:
        advantages: [rows, time - 1], returns less their baseline, 0 outside replies.
        figures: mean worth of the whole replies, by who finds it.
    """

    advantages: Tensor
    figures: dict[str, float]


def sample_replies(models: Adversaries, real: Batch, config: GanConfig, draws: CounterRNG) -> Replies:
    """Return `config.samples` replies for each condition of `real`, drawn at temperature 1.

    A latent, where the generator has one, is drawn for each reply: from the prior, or for some samples of a VAE's decoder
    from the posterior of the condition's real reply (Larsen et al. 2016).
    """
    starts = real.reply_start.repeat_interleave(config.samples)
    prefix = real.tokens[:, : int(real.reply_start.max())].repeat_interleave(config.samples, 0)
    prefix = prefix.masked_fill(torch.arange(prefix.shape[1], device=prefix.device) >= starts[:, None], PAD)
    condition = torch.cat([real.emotion.repeat_interleave(config.samples, 0), _latents(models, real, config, draws)], 1)
    completed = config.estimator == "rollout" and config.rollouts > 0
    prefixes = PromptBatch(prefix, starts, condition)
    generated = generate(models.generator, prefixes, config.max_tokens, PlainSampler(draws.uniforms), completed)
    return Replies(generated, condition, reply_mask(generated.tokens, starts))


@torch.no_grad()
def _latents(models: Adversaries, real: Batch, config: GanConfig, draws: CounterRNG) -> Tensor:
    rows = torch.arange(len(real) * config.samples, device=real.tokens.device)
    dimensions = torch.arange(models.generator.config.latent, device=rows.device)
    noise: Tensor = torch.special.ndtri(draws.uniforms(rows[:, None], _LATENT + dimensions).clamp(min=_SMALLEST))
    free = models.generator.prior(real.emotion.repeat_interleave(config.samples, 0)).sample(noise)
    if not models.encoder:
        return free
    posterior = models.encoder.encode(real.tokens, real.reply_start, real.emotion)
    found = Gaussian(*(part.repeat_interleave(config.samples, 0) for part in (posterior.mean, posterior.log_variance)))
    from_posterior = rows % config.samples < round(config.posterior_share * config.samples)
    return torch.where(from_posterior[:, None], found.sample(noise), free)


@torch.no_grad()
def gather_experience(models: Adversaries, real: Batch, replies: Replies, config: GanConfig, draws: CounterRNG) -> Trajectory:
    """Return what each token of the replies is worth by the config's estimator and the guide, less the baseline."""
    returns, reward = _score_replies(models, real, replies, config, draws)
    figures = {"reward": float(joint_mean(reward.mean(), len(reward)))} if len(reward) else {}
    returns = config.discriminator_reward * returns
    if models.guide:
        target = real.emotion.repeat_interleave(config.samples, 0)
        emotion = models.guide.reward(replies.generated.tokens, replies.generated.reply_start, target)
        returns = returns + config.emotion_reward * emotion[:, None] * replies.mask
        figures["emotion_reward"] = float(joint_mean(emotion.mean(), len(emotion)))
    return Trajectory(_advantages(returns, replies.mask, config), figures)


def _score_replies(
    models: Adversaries, real: Batch, replies: Replies, config: GanConfig, draws: CounterRNG
) -> tuple[Tensor, Tensor]:
    """Return the discriminator's part: returns [rows, time - 1], and what whole replies are worth, [rows].

    None with `gumbel`.
    """
    tokens, mask = replies.generated.tokens, replies.mask
    if config.estimator == "gumbel":
        return torch.zeros(mask.shape, device=tokens.device), torch.empty(0)
    if config.estimator == "dense":
        odds = score(models.discriminator, tokens, real.emotion.repeat_interleave(config.samples, 0))
        potential = ablate_reward(odds.sigmoid() if config.potential == "probability" else odds, config, draws)
        return dense_returns(potential, mask, config.discount), of_whole_texts(potential, tokens)
    reward = relative_reward(models.discriminator, real, config, draws)
    returns = rollout_returns(
        models.generator, replies.generated, replies.condition, config.max_tokens, reward, config.rollouts, draws, config.chunk
    )
    return returns, of_whole_texts(returns, tokens[:, 1:])


def _advantages(returns: Tensor, mask: Tensor, config: GanConfig) -> Tensor:
    grouped = (-1, config.samples, mask.shape[1])
    if config.baseline == "leave-one-out":
        returns = leave_one_out(returns.view(grouped), mask.view(grouped)).view(mask.shape)
    if config.scale_advantages == "no":
        return returns
    positions = total(mask.sum()).clamp(min=1)
    mean = total(returns.sum()) / positions
    deviation = (total(((returns - mean) * mask).square().sum()) / positions).sqrt()
    return returns / deviation.clamp(min=_LEAST_DEVIATION)


def policy_loss(
    models: Adversaries, replies: Replies, experience: Trajectory, config: GanConfig, old: Tensor | None = None
) -> tuple[Tensor, Tensor, dict[str, float]]:
    """Return what the generator learns from rewards, and what holds it near the starting model.

    Args:
        models: generator, in whatever mode, and reference.
        replies: that it has written.
        experience: what they are worth.
        config: weights and limits.
        old: log probabilities [rows, time - 1] of the tokens under the model that sampled them; None for those of the generator
            as it is now, which is that model in the first update.

    Returns:
        The loss; log probabilities to pass as `old` to a further update on the same replies; figures.
    """
    mask = replies.mask
    terms = place_terms(models, replies, config)
    taken = torch.zeros(mask.shape, device=mask.device).masked_scatter(mask, terms[0])
    old = taken.detach() if old is None else old
    divergence, spread, floor = (joint_mean(term.mean(), len(term)) for term in terms[1:])
    gain = clipped_policy_loss(taken, old, experience.advantages, mask, config.clip or math.inf)
    lack = (config.entropy_floor * floor - spread).clamp(min=0)
    loss = joint_mean(gain, len(mask)) + config.kl_weight * divergence + config.entropy_weight * lack
    length = joint_mean(mask.sum(1).float().mean(), len(mask))
    figures = {"kl": divergence, "entropy": spread, "length": length}
    return loss, old, {name: float(value.detach()) for name, value in figures.items()}


def place_terms(models: Adversaries, replies: Replies, config: GanConfig) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute for each place in the mask.

    Log probability of the token, KL from the reference, entropy of generator and of reference.

    Scores of the vocabulary are computed for `config.chunk` places at once, and once more for the gradient.
    """
    tokens, mask, condition = replies.generated.tokens, replies.mask, replies.condition
    states = models.generator(tokens[:, :-1], condition)[mask]
    with torch.no_grad():
        before = models.reference(tokens[:, :-1], condition)[mask]

    def terms(states: Tensor, before: Tensor, taken: Tensor) -> Tensor:
        log_probs = models.generator.logits(states).float().log_softmax(-1)
        with torch.no_grad():
            start = models.reference.logits(before).float().log_softmax(-1)
        picked = log_probs.gather(1, taken[:, None]).squeeze(1)
        return torch.stack([picked, policy_kl(log_probs, start), entropy(log_probs), entropy(start)])

    found = in_chunks(terms, config.chunk, states, before, tokens[:, 1:][mask])
    return found[0], found[1], found[2], found[3]


def likelihood_loss(models: Adversaries, real: Batch, config: GanConfig) -> Tensor:
    """Return the negative log-likelihood of the real replies, in nats a token."""
    latent = real.emotion.new_zeros(len(real), models.generator.config.latent)
    if models.encoder:
        with torch.no_grad():
            latent = models.encoder.encode(real.tokens, real.reply_start, real.emotion).mean
    condition = torch.cat([real.emotion, latent], 1)
    nll, mask = reply_nll(models.generator, real.tokens, real.reply_start, condition, config.chunk)
    return joint_mean(nll[mask].mean(), int(mask.sum()))
