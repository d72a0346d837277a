"""Training of the text VAE: autoencoder first, then the rate comes in and is held by free bits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.nn import functional

from emogen.data.batches import Batch
from emogen.losses import (
    Gaussian,
    active_units,
    free_bits,
    importance_weighted_nll,
    kl_to_prior,
    mutual_information,
    standard_normal,
)
from emogen.models.likelihood import reply_nll
from emogen.models.vae import TextVAE
from emogen.train.config import VaeConfig
from emogen.train.mle import drop_emotion
from emogen.train.processes import joint, total
from emogen.train.state import Step, TrainState, mixed_precision, scheduled, update, usual_tokens


def train_vae(vae: TextVAE, batches: Iterable[Batch], config: VaeConfig, state: TrainState) -> Iterator[Step]:
    """Updates `vae` in place on one batch after another, with the optimizer `state.optimizers["vae"]`.

    Yields after each update, with reconstruction and KL (nats a row), and active units and mutual information as this
    process's part of the batch shows them; stop by not asking for the next one.

    Raises:
        TrainingError: the loss is not finite; the model keeps its last weights.
    """
    device = vae.decoder.bias.device
    for batch in batches:
        vae.train()
        moved = batch.to(device)
        told = drop_emotion(moved, config.emotion_dropout, state.random).emotion
        noise = moved.own(torch.randn(moved.whole, vae.config.decoder.latent, generator=state.random))
        with mixed_precision(config.precision, device):
            posterior = vae.encode(moved.tokens, moved.reply_start, moved.emotion)
            latent = posterior.sample(noise.to(device))
            condition = torch.cat([told, latent], 1)
            nll, mask = reply_nll(vae.decoder, moved.tokens, moved.reply_start, condition)
            adversary = functional.cross_entropy(vae.emotion_logits(latent), moved.emotion[:, :-1], reduction="sum")
        kl = joint(kl_to_prior(posterior, standard_normal(posterior.mean)).sum(0)) / moved.whole
        reconstruction = joint(nll.sum()) / moved.whole
        weight = rate_weight(config, state.progress)
        loss = (reconstruction + weight * free_bits(kl[None], config.target_rate)) * moved.whole
        loss = loss / usual_tokens(total(mask.sum()), state)
        loss = loss + config.adversary_weight * joint(adversary) / moved.whole
        update(loss, state.optimizers["vae"], scheduled(config.learning_rate, state), state)
        state.step += 1
        yield Step(state.step, _figures(reconstruction, kl.sum(), posterior, latent) | {"rate_weight": weight})


def rate_weight(config: VaeConfig, progress: float) -> float:
    """Weight of the rate term when `progress` of the run is done: 0 in the autoencoder part, then a straight line to 1."""
    return min(max((progress - config.autoencoder_share) / max(config.annealing_share, 1e-9), 0.0), 1.0)


@torch.no_grad()
def held_out_elbo(vae: TextVAE, batches: Iterable[Batch], draws: int = 8, seed: int = 0) -> dict[str, float]:
    """What a VAE does on held-out rows, in nats a row.

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
    prior = standard_normal(posterior.mean)
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
