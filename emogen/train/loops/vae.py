"""Training of the text VAE: nearly an autoencoder first, then the rate is brought down to its target and held there.

The weight of the rate term is set by a controller (proportional and integral, in logarithms), as in ControlVAE (Shao et al.
2020): whatever the weight has to be, the rate comes out as asked, where free bits alone bound it from below. It follows a goal
that is loose at first and then falls: held to the target at once, encoder and decoder would learn to do without z. The
autoencoder has a goal too, since without one z grows without bound, hundreds of nats within hundreds of steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, MutableMapping

import torch
from torch import Tensor

from emogen.data.batches import Batch
from emogen.models.likelihood import reply_nll
from emogen.models.losses import (
    Gaussian,
    active_units,
    free_bits,
    importance_weighted_nll,
    kl_to_prior,
    mutual_information,
)
from emogen.models.vae import TextVAE
from emogen.train.config import VaeConfig
from emogen.train.loops.mle import drop_emotion
from emogen.train.run.processes import joint, total
from emogen.train.run.state import Step, TrainState, learning_rate_at, mixed_precision, update, usual_tokens

_MEMORY = 0.95
_INTEGRAL, _PROPORTIONAL = 0.03, 1.0
_FIRST_WEIGHT = 0.02
_WEIGHTS = (1e-4, 1e2)
_LARGEST_ERROR = 2.0
_LOOSE = 6.0


def train_vae(vae: TextVAE, batches: Iterable[Batch], config: VaeConfig, state: TrainState) -> Iterator[Step]:
    """Update `vae` in place on one batch after another, with the optimizer `state.optimizers["vae"]`.

    Yields after each update, with reconstruction and KL (nats a row), and active units and mutual information as this
    process's part of the batch shows them; stop by not asking for the next one.

    Raises:
        TrainingError: the loss is not finite; the model keeps its last weights.
    """
    device = vae.decoder.bias.device
    for batch in batches:
        vae.train()
        # With dropout the rate in training would be a fifth below the one in use; what z holds is bounded by the rate anyway.
        vae.encoder.eval()
        moved = batch.to(device)
        conditioning = drop_emotion(moved, config.emotion_dropout, state.random).emotion
        noise = moved.own(torch.randn(moved.whole, vae.config.decoder.latent, generator=state.random))
        with mixed_precision(config.precision, device):
            posterior = vae.encode(moved.tokens, moved.reply_start, conditioning)
            latent = posterior.sample(noise.to(device))
            condition = torch.cat([conditioning, latent], 1)
            prior = vae.decoder.prior(conditioning)
            nll, mask = reply_nll(vae.decoder, moved.tokens, moved.reply_start, condition)
            usual = total(moved.emotion[:, :-1].sum(0)) / moved.whole
            adversary = vae.adversary_loss(latent, moved.emotion[:, :-1], usual).sum()
        kl = joint(kl_to_prior(posterior, prior).sum(0)) / moved.whole
        reconstruction = joint(nll.sum()) / moved.whole
        weight = rate_weight(float(kl.detach().sum()), config, state.progress, state.figures)
        floor = config.rate_floor * config.target_rate
        loss = (reconstruction + weight * free_bits(kl[None], floor)) * moved.whole
        loss = loss / usual_tokens(total(mask.sum()), state)
        loss = loss + config.adversary_weight * joint(adversary) / moved.whole
        taken = update(loss, state.optimizers["vae"], learning_rate_at(config.learning_rate, state), state)
        state.step += 1
        yield Step(state.step, _figures(reconstruction, kl.sum(), posterior, latent) | {"rate_weight": weight} | taken)


def rate_weight(rate: float, config: VaeConfig, progress: float, figures: MutableMapping[str, float]) -> float:
    """Return the weight of the rate term in this step: what keeps the rate at its goal.

    Args:
        rate: KL of this batch, nats a row, the same in every process. Batches hold rows of similar length, so that it differs
            much from one to the next; the error is linear in it, so that its mean is what is held.
        config: with a target of 0 no rate is held: the weight is 0 in the autoencoder part and then rises to 1 in a straight
            line.
        progress: share of the run that is done.
        figures: of the run's state; entries whose names begin with "rate" are read and written.

    Source: Shao et al. 2020, ControlVAE; the logarithm of the weight is what moves, so that it stays positive.
    """
    if not config.target_rate:
        return annealing_share(config, progress)
    goal = rate_goal(config, progress)
    figures["rate_mean"] = _MEMORY * figures.get("rate_mean", rate) + (1 - _MEMORY) * rate
    low, high = (math.log(bound) for bound in _WEIGHTS)
    moved = figures.get("rate_log_weight", math.log(_FIRST_WEIGHT)) + _INTEGRAL * min(rate / goal - 1, _LARGEST_ERROR)
    figures["rate_log_weight"] = min(max(moved, low), high)
    now = min(figures["rate_mean"] / goal - 1, _LARGEST_ERROR)
    return math.exp(min(max(figures["rate_log_weight"] + _PROPORTIONAL * now, low), high))


def rate_goal(config: VaeConfig, progress: float) -> float:
    """Return the rate to be held now, nats a row.

    Six times the target in the autoencoder part, then down to it by equal ratios.
    """
    return float(config.target_rate * _LOOSE ** (1 - annealing_share(config, progress)))


def annealing_share(config: VaeConfig, progress: float) -> float:
    """Return the share of the annealing part that is done: 0 in the autoencoder part before it, 1 behind it."""
    return min(max((progress - config.autoencoder_share) / max(config.annealing_share, 1e-9), 0.0), 1.0)


@torch.no_grad()
def held_out_elbo(vae: TextVAE, batches: Iterable[Batch], draws: int = 8, seed: int = 0) -> dict[str, float]:
    """Return what a VAE does on held-out rows, in nats a row.

    Args:
        vae: the model.
        batches: held-out rows; a batch must fit in memory `draws` times.
        draws: importance samples a row.
        seed: of the draws.

    Returns:
        `reconstruction`, `kl`, `elbo_nll` (their sum), `iw_nll` (importance-weighted), `active_units`, `mutual_information`
        (mean of batch estimates, so at most log batch size).
    """
    vae.eval()
    random = torch.Generator().manual_seed(seed)
    sums: dict[str, float] = {}
    rows, means = 0, []
    for batch in batches:
        figures, mean = _elbo(vae, batch.to(vae.decoder.bias.device), draws, random)
        means.append(mean)
        rows += len(batch)
        sums = {name: sums.get(name, 0.0) + value * len(batch) for name, value in figures.items()}
    averages = {name: value / rows for name, value in sums.items()}
    averages["elbo_nll"] = averages["reconstruction"] + averages["kl"]
    return averages | {"active_units": active_units(torch.cat(means))}


def _elbo(vae: TextVAE, batch: Batch, draws: int, random: torch.Generator) -> tuple[dict[str, float], Tensor]:
    posterior = vae.encode(batch.tokens, batch.reply_start, batch.emotion)
    prior = vae.decoder.prior(batch.emotion)
    points, likelihoods = [], []
    for _ in range(draws):
        points.append(posterior.sample(torch.randn(posterior.mean.shape, generator=random).to(batch.tokens.device)))
        condition = torch.cat([batch.emotion, points[-1]], 1)
        likelihoods.append(-reply_nll(vae.decoder, batch.tokens, batch.reply_start, condition)[0].sum(1))
    z, log_likelihood = torch.stack(points), torch.stack(likelihoods)
    iw_nll = importance_weighted_nll(log_likelihood, prior.log_density(z), posterior.log_density(z))
    kl = kl_to_prior(posterior, prior)
    figures = _figures(-log_likelihood.mean(), kl.sum(1).mean(), posterior, z[0]) | {"iw_nll": float(iw_nll.mean())}
    return figures, posterior.mean


def _figures(reconstruction: Tensor, rate: Tensor, posterior: Gaussian, latent: Tensor) -> dict[str, float]:
    detached = Gaussian(posterior.mean.detach(), posterior.log_variance.detach())
    return {
        "reconstruction": float(reconstruction.detach()),
        "kl": float(rate.detach()),
        "active_units": active_units(detached.mean),
        "mutual_information": float(mutual_information(detached, latent.detach())),
    }
