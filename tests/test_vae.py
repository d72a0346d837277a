"""The text VAE: what its encoder sees, the emotion adversary, the rate, and held-out figures."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from emogen.data.batches import Batch
from emogen.errors import SettingsError, TrainingError
from emogen.losses import active_units
from emogen.models.generator import GeneratorConfig
from emogen.models.vae import TextVAE, TextVaeConfig
from emogen.text import BOS, EOS, PAD, TURN
from emogen.train.config import VaeConfig
from emogen.train.state import TrainState, adamw
from emogen.train.vae import held_out_elbo, rate_weight, train_vae

VOCABULARY, EMOTIONS, LATENT = 20, 2, 4


def tiny_vae(backbone="lstm", width=16):
    decoder = GeneratorConfig(VOCABULARY, EMOTIONS, backbone, width=width, layers=1, heads=4, latent=LATENT, dropout=0.0)
    return TextVAE(TextVaeConfig(decoder, encoder_layers=1, encoder_heads=4)).eval()


def eight_sentences():
    tokens = torch.randint(5, VOCABULARY, (8, 7))
    tokens[:, 0], tokens[:, -1] = BOS, EOS
    tokens[:3, -2:] = torch.tensor([EOS, PAD])
    emotion = functional.one_hot(torch.arange(8) % EMOTIONS, EMOTIONS + 1).float()
    return Batch(tokens, torch.ones(8, dtype=torch.long), emotion)


def state_of(vae):
    return TrainState({"vae": vae}, {"vae": adamw(vae)}, torch.Generator().manual_seed(0))


def posterior_of(vae, context, reply, padding=0):
    tokens = torch.tensor([[*context, BOS, *reply, EOS, *[PAD] * padding]])
    found = vae.encode(tokens, torch.tensor([len(context) + 1]), torch.tensor([[1.0, 0.0, 0.0]]))
    return torch.cat([found.mean, found.log_variance], 1)


@torch.no_grad()
def test_posterior_sees_the_reply_alone():
    """Neither the context, nor its length, nor padding moves it; the reply does."""
    vae = tiny_vae()
    expected = posterior_of(vae, [], [7, 8, 9])
    torch.testing.assert_close(posterior_of(vae, [], [7, 8, 9], padding=3), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(posterior_of(vae, [11, 12, TURN], [7, 8, 9]), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(posterior_of(vae, [13], [7, 8, 9], padding=1), expected, atol=1e-5, rtol=1e-5)
    assert (posterior_of(vae, [], [7, 9, 8]) - expected).abs().max() > 1e-4


@torch.no_grad()
def test_posterior_shapes_and_the_emotion():
    """A mean and a log variance for each latent dimension; another emotion gives another posterior."""
    vae, batch = tiny_vae(), eight_sentences()
    found = vae.encode(batch.tokens, batch.reply_start, batch.emotion)
    assert found.mean.shape == found.log_variance.shape == (8, LATENT)
    other = vae.encode(batch.tokens, batch.reply_start, batch.emotion.roll(1, 0))
    assert (found.mean - other.mean).abs().max() > 1e-4


def test_the_adversary_turns_the_gradient():
    """The latent gets the opposite of the plain gradient, the adversary's own weights get theirs."""
    vae, latent = tiny_vae(), torch.randn(5, LATENT, requires_grad=True)
    target = torch.randint(EMOTIONS, (5,))

    def gradients(logits):
        return torch.autograd.grad(functional.cross_entropy(logits, target), [latent, *vae.adversary.parameters()])

    plain, reversed_ = gradients(vae.adversary(latent)), gradients(vae.emotion_logits(latent))
    torch.testing.assert_close(reversed_[0], -plain[0])
    torch.testing.assert_close(reversed_[1:], plain[1:])
    torch.testing.assert_close(vae.emotion_logits(latent), vae.adversary(latent))


@pytest.mark.parametrize(("progress", "expected"), [(0, 0), (0.2, 0), (0.3, 0.5), (0.4, 1), (1, 1)])
def test_rate_weight(progress, expected):
    """Nothing in the autoencoder part, then a straight line to 1."""
    config = VaeConfig(autoencoder_share=0.2, annealing_share=0.2)
    assert rate_weight(config, progress) == pytest.approx(expected)


def test_rate_weight_without_annealing_is_a_step():
    """An annealing share of 0 divides by nothing."""
    config = VaeConfig(autoencoder_share=0.0, annealing_share=0.0)
    assert rate_weight(config, 1e-6) == 1


def train(vae, batch, config, steps):
    state = state_of(vae)
    loop = train_vae(vae, [batch] * steps, config, state)
    for step in loop:
        state.progress = step.number / steps
        last = step.figures
    return last


@pytest.mark.parametrize("backbone", ["lstm", "transformer"])
def test_eight_sentences_are_learnt_through_the_latent(backbone):
    """A rate at its target of 4 nats, at least half of the dimensions active, and what z must say is read from it."""
    vae, batch = tiny_vae(backbone, width=32), eight_sentences()
    config = VaeConfig(learning_rate=1e-2, emotion_dropout=0.0, target_rate=4.0, precision="float32")
    first = held_out_elbo(vae, [batch])
    last = train(vae, batch, config, 300)
    found = held_out_elbo(vae, [batch], draws=32)
    assert last["rate_weight"] == 1
    assert found["kl"] > 3
    assert found["active_units"] >= LATENT / 2
    assert found["mutual_information"] > 1
    assert found["reconstruction"] < 0.5 * first["reconstruction"]
    assert found["elbo_nll"] == pytest.approx(found["reconstruction"] + found["kl"])


def test_figures_of_a_step_belong_to_its_batch():
    """Active units and KL as the posterior of the model before the update gives them."""
    vae, batch = tiny_vae(), eight_sentences()
    with torch.no_grad():
        before = vae.encode(batch.tokens, batch.reply_start, batch.emotion)
    kl = 0.5 * (before.log_variance.exp() + before.mean**2 - 1 - before.log_variance).sum(1).mean()
    figures = train(vae, batch, VaeConfig(precision="float32"), 1)
    assert figures["kl"] == pytest.approx(float(kl), rel=1e-5)
    assert figures["active_units"] == active_units(before.mean)
    assert set(figures) == {"reconstruction", "kl", "active_units", "mutual_information", "rate_weight"}


def test_importance_weighting_is_no_worse_than_the_bound():
    """Over uneven batches the log-sum of draws lies below their mean (Jensen); it tightens with more draws."""
    vae, batch = tiny_vae(), eight_sentences()
    vae.posterior.weight.data *= 5
    parts = [Batch(*(part[rows] for part in (batch.tokens, batch.reply_start, batch.emotion))) for rows in ([0], slice(1, 8))]
    one, many = held_out_elbo(vae, parts, draws=1), held_out_elbo(vae, parts, draws=64)
    assert many["iw_nll"] <= many["elbo_nll"] + 0.05
    assert many["iw_nll"] < one["iw_nll"] + 0.05
    assert many == held_out_elbo(vae, parts, draws=64)


def test_a_deaf_decoder_has_no_gap():
    """With the posterior at the prior and a decoder that ignores z, both bounds are log p(x) of the decoder."""
    vae, batch = tiny_vae(), eight_sentences()
    vae.posterior.weight.data.zero_()
    vae.posterior.bias.data.zero_()
    vae.decoder.inject.weight.data[:, -LATENT:] = 0
    found = held_out_elbo(vae, [batch], draws=3)
    condition = torch.cat([batch.emotion, torch.zeros(8, LATENT)], 1)
    scores = vae.decoder.logits(vae.decoder(batch.tokens[:, :-1], condition)).log_softmax(-1)
    targets = batch.tokens[:, 1:]
    nll = -(scores.gather(2, targets[..., None]).squeeze(2) * (targets != PAD)).sum(1).mean()
    assert found["kl"] == 0
    assert found["active_units"] == 0
    nll = float(nll.detach())
    assert found["iw_nll"] == pytest.approx(nll, rel=1e-5)
    assert found["elbo_nll"] == pytest.approx(nll, rel=1e-5)


def test_a_loss_that_is_no_number_changes_nothing():
    """The error names the step; the weights stay."""
    vae, batch = tiny_vae(), eight_sentences()
    vae.posterior.bias.data[0] = math.nan
    before = copy.deepcopy(vae.state_dict())
    with pytest.raises(TrainingError, match="step 1: "):
        next(train_vae(vae, [batch], VaeConfig(precision="float32"), state_of(vae)))
    for name, weight in vae.state_dict().items():
        torch.testing.assert_close(weight, before[name], equal_nan=True, atol=0, rtol=0)


def test_impossible_settings():
    """No latent, and encoder heads that do not divide the width."""
    decoder = GeneratorConfig(VOCABULARY, EMOTIONS, width=18, latent=LATENT)
    for options in ({"decoder": replace(decoder, latent=0)}, {"decoder": decoder, "encoder_heads": 4}):
        with pytest.raises(SettingsError):
            TextVaeConfig(**options)
