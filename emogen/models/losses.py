"""Losses and estimates as pure functions on tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Gaussian:
    """A diagonal normal distribution; both tensors [..., latent]."""

    mean: Tensor
    log_variance: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """Return the point that standard normal `noise` [..., latent] is mapped to (reparametrisation.

        Kingma & Welling 2014).
        """
        return self.mean + noise * (0.5 * self.log_variance).exp()

    def log_density(self, point: Tensor) -> Tensor:
        """Log density of `point` [..., latent], summed over the last axis, in nats."""
        scaled = (point - self.mean).square() / self.log_variance.exp()
        return -0.5 * (scaled + self.log_variance + math.log(2 * math.pi)).sum(-1)


def standard_normal(like: Tensor) -> Gaussian:
    """Return the standard normal distribution in the shape of `like`."""
    return Gaussian(torch.zeros_like(like), torch.zeros_like(like))


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of `values` where `mask` of the same shape is true; 0 where it is true nowhere."""
    return (values * mask).sum() / mask.sum().clamp(min=1)


def token_nll(logits: Tensor, targets: Tensor) -> Tensor:
    """Return negative log-likelihood of each target, in nats.

    Args:
        logits: [..., vocabulary].
        targets: [...], ids.

    Returns:
        [...], float32.
    """
    flat = functional.cross_entropy(logits.float().flatten(0, -2), targets.flatten(), reduction="none")
    return flat.view(targets.shape)


def kl_to_prior(posterior: Gaussian, prior: Gaussian) -> Tensor:
    """Return the Kullback-Leibler divergence KL(posterior || prior), in nats.

    Args:
        posterior: mean and log variance, each [batch, latent].
        prior: the same shapes; broadcasts over the batch.

    Returns:
        [batch, latent], one term a dimension: sum over the last axis for the rate.

    Source: Kingma & Welling 2014, appendix B.
    """
    variance_ratio = (posterior.log_variance - prior.log_variance).exp()
    shift = (posterior.mean - prior.mean).square() / prior.log_variance.exp()
    return 0.5 * (variance_ratio + shift - 1 - (posterior.log_variance - prior.log_variance))


def free_bits(kl: Tensor, floor: float) -> Tensor:
    """Return the rate, no dimension of which is pushed below its share of the floor: its batch mean counts with at least that.

    Args:
        kl: [batch, latent], from `kl_to_prior`.
        floor: nats a row for all dimensions together.

    Returns:
        Scalar, nats a row.

    Source: Kingma et al. 2016, section 4 (free bits a dimension).
    """
    return kl.mean(0).clamp(min=floor / kl.shape[-1]).sum()


def active_units(means: Tensor, threshold: float = 0.01) -> int:
    """Return the latent dimensions whose posterior mean varies over the data by more than `threshold`.

    Args:
        means: [rows, latent].
        threshold: variance.

    Source: Burda et al. 2016, section 5.3.
    """
    return int((means.var(0, unbiased=False) > threshold).sum())


def mutual_information(posterior: Gaussian, points: Tensor) -> Tensor:
    """Return the mutual information of text and latent under the encoder, in nats.

    By a minibatch estimate of the aggregate posterior.

    Args:
        posterior: [rows, latent].
        points: [rows, latent], one draw from each posterior.

    Returns:
        Scalar: E[log q(z|x)] - E[log q(z)]; at most log(rows), which is also the estimate's ceiling.

    Source: Hoffman & Johnson 2016; estimator as in He et al. 2019, section 3.
    """
    every = Gaussian(posterior.mean[None], posterior.log_variance[None]).log_density(points[:, None])
    aggregate = every.logsumexp(1) - math.log(len(points))
    return (every.diagonal() - aggregate).mean()


def importance_weighted_nll(log_likelihood: Tensor, log_prior: Tensor, log_posterior: Tensor) -> Tensor:
    """Return the upper bound on -log p(x), tighter with more draws.

    Args:
        log_likelihood: log p(x|z), [draws, rows], nats.
        log_prior: log p(z), the same shape.
        log_posterior: log q(z|x), the same shape.

    Returns:
        [rows], nats.

    Source: Burda et al. 2016, equation 8.
    """
    weights = log_likelihood + log_prior - log_posterior
    return math.log(len(weights)) - weights.logsumexp(0)


def bradley_terry(real: Tensor, generated: Tensor) -> Tensor:
    """Return the loss of a discriminator that should prefer the real text of each pair.

    Args:
        real: scores [batch] of real texts.
        generated: scores [batch] of generated texts for the same conditions.

    Returns:
        Scalar: mean of -log sigmoid(real - generated).

    Source: Bradley & Terry 1952; as a relativistic discriminator: Jolicoeur-Martineau 2019.
    """
    return -functional.logsigmoid(real - generated).mean()


def prefix_cross_entropy(scores: Tensor, real: bool, mask: Tensor) -> Tensor:
    """Return the loss of a discriminator that tells real from generated at every prefix.

    Args:
        scores: [batch, time], log odds of "real".
        real: what the rows are.
        mask: [batch, time], true at prefixes that count.
    """
    return masked_mean(functional.softplus(-scores if real else scores), mask)


def leave_one_out(returns: Tensor, mask: Tensor) -> Tensor:
    """Return less the mean return of the other samples of the same condition at the same position.

    Args:
        returns: [conditions, samples, time].
        mask: the same shape; where false nothing counts. A position that no other sample reaches is compared with the mean
            of the others' last returns.

    Returns:
        The advantages, the same shape, 0 outside the mask.

    Source: Kool, van Hoof & Welling 2019 (REINFORCE with a leave-one-out baseline).
    """
    positions = torch.arange(mask.shape[-1], device=mask.device)
    last = returns.gather(-1, (positions * mask).amax(-1, keepdim=True))
    held = torch.where(mask, returns, last)
    others = max(returns.shape[1] - 1, 1)
    baseline = (held.sum(1, keepdim=True) - held) / others
    return (returns - baseline) * mask


def clipped_policy_loss(log_prob: Tensor, old_log_prob: Tensor, advantages: Tensor, mask: Tensor, clip: float) -> Tensor:
    """Return the proximal policy loss, summed over time and averaged over rows.

    Args:
        log_prob: [batch, time], of the tokens taken, under the model in training.
        old_log_prob: the same, under the model that sampled; no gradient.
        advantages: [batch, time]; no gradient.
        mask: [batch, time], true up to and including the end token.
        clip: how far the probability ratio may move an update, 0.2 in the paper.

    Source: Schulman et al. 2017, equation 7. With log_prob == old_log_prob its gradient is REINFORCE's.
    """
    ratio = (log_prob - old_log_prob).exp()
    gain = torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
    return -(gain * mask).sum(1).mean()


def preference_loss(
    better: Tensor, worse: Tensor, better_before: Tensor, worse_before: Tensor, beta: float, smoothing: float = 0.0
) -> Tensor:
    """Return the loss of a model that should find the better of two replies likelier than before.

    The worse one less likely.

    Args:
        better: [pairs], log probability of the better reply under the model in training, in nats.
        worse: [pairs], of the worse one.
        better_before: [pairs], of the better one under the model as it was; no gradient.
        worse_before: [pairs], of the worse one; no gradient.
        beta: the smaller, the further the model may go from where it was.
        smoothing: share of the pairs that are taken to be the wrong way round, below one half.

    Returns:
        [pairs]: -log sigmoid(beta * margin), the margin being how many nats the better reply has gained on the worse one.

    Source: Rafailov et al. 2023 (direct preference optimization), equation 7; smoothing as in Mitchell 2023 (conservative DPO).
    """
    margin = beta * ((better - better_before) - (worse - worse_before))
    return -(1 - smoothing) * functional.logsigmoid(margin) - smoothing * functional.logsigmoid(-margin)


def unpaired_loss(gain: Tensor, good: Tensor, reference: Tensor, beta: float, weights: tuple[float, float]) -> Tensor:
    """Compute the loss of a model that should find good replies likelier than before, and bad ones less likely.

    Args:
        gain: [replies], log probability of each under the model in training less that under the model as it was, in nats.
        good: [replies], bool.
        reference: scalar, nats: how far the model has moved in general, its KL to where it was, 0 or more; no gradient.
        beta: the smaller, the further the model may go from where it was.
        weights: of good and of bad replies.

    Returns:
        [replies]: weight * (1 - sigmoid(beta * (gain - reference))) of a good one, of a bad one with the sign turned.

    Source: Ethayarajh et al. 2024 (KTO), equation 8.
    """
    sign = good.to(gain.dtype) * 2 - 1
    weight = torch.where(good, weights[0], weights[1])
    return weight * (1 - torch.sigmoid(sign * beta * (gain - reference)))


def policy_kl(log_probs: Tensor, reference: Tensor) -> Tensor:
    """Return KL(policy || reference) at each position, in nats; both are log probabilities [..., vocabulary]."""
    return (log_probs.exp() * (log_probs - reference)).sum(-1)


def entropy(log_probs: Tensor) -> Tensor:
    """Return the entropy at each position, in nats, of log probabilities [..., vocabulary]."""
    return -(log_probs.exp() * log_probs).sum(-1)
