"""The text VAE: what its encoder sees, the emotion adversary, the rate, and held-out figures."""

import copy
import json
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence
from torch.nn import functional

from emogen.data.batches import Batch
from emogen.errors import SettingsError, TrainingError
from emogen.models.generator import GeneratorConfig
from emogen.models.losses import Gaussian, active_units, kl_to_prior
from emogen.models.vae import TextVAE, TextVaeConfig
from emogen.text.tokenizer import BOS, EOS, PAD, TURN
from emogen.train.config import VaeConfig
from emogen.train.loops.vae import held_out_elbo, rate_goal, rate_weight, train_vae
from emogen.train.run.state import TrainState, adamw

VOCABULARY, EMOTIONS, LATENT = 20, 2, 4


def tiny_vae(backbone="lstm", width=16, prior="standard"):
    sizes = {"width": width, "layers": 1, "heads": 4, "latent": LATENT, "dropout": 0.0, "prior": prior}
    decoder = GeneratorConfig(VOCABULARY, EMOTIONS, backbone, **sizes)
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


def test_what_adversary_and_encoder_learn():
    """The adversary's weights get the gradient of its cross entropy, z that of the distance from the usual emotions."""
    vae, latent, usual = tiny_vae(), torch.randn(5, LATENT, requires_grad=True), torch.tensor([0.25, 0.75])
    emotion = functional.one_hot(torch.randint(EMOTIONS, (5,)), EMOTIONS).float()
    scores = vae.adversary(latent).log_softmax(-1)
    own = list(vae.adversary.parameters())
    expected = torch.autograd.grad(-(emotion * scores).sum(), own, retain_graph=True)
    found = torch.autograd.grad(vae.adversary_loss(latent, emotion, usual).sum(), [latent, *own])
    torch.testing.assert_close(found[0], torch.autograd.grad(-(usual * scores).sum(), latent)[0])
    torch.testing.assert_close(found[1:], expected)


def test_encoder_gains_nothing_from_an_adversary_that_guesses():
    """Where the adversary gives every row the usual emotions, z stays as it is."""
    vae, latent = tiny_vae(), torch.randn(5, LATENT, requires_grad=True)
    vae.adversary[2].weight.data.zero_()
    vae.adversary[2].bias.data.copy_(torch.tensor([0.25, 0.75]).log())
    loss = vae.adversary_loss(latent, torch.eye(EMOTIONS)[[0, 1, 1, 1, 1]], torch.tensor([0.25, 0.75])).sum()
    torch.testing.assert_close(torch.autograd.grad(loss, latent)[0], torch.zeros(5, LATENT))


@pytest.mark.parametrize(("progress", "expected"), [(0, 0), (0.2, 0), (0.3, 0.5), (0.4, 1), (1, 1)])
def test_without_a_target_the_weight_rises_to_one(progress, expected):
    """Nothing in the autoencoder part, then a straight line to 1."""
    config = VaeConfig(autoencoder_share=0.2, annealing_share=0.2, target_rate=0.0)
    assert rate_weight(5.0, config, progress, {}) == pytest.approx(expected)


@pytest.mark.parametrize(("progress", "expected"), [(0, 24), (0.2, 24), (0.3, 96**0.5), (0.4, 4), (1, 4)])
def test_goal_falls_to_the_target_by_equal_ratios(progress, expected):
    assert rate_goal(VaeConfig(target_rate=4.0), progress) == pytest.approx(expected)


def test_goal_without_annealing_is_the_target_at_once():
    """An annealing share of 0 divides by nothing."""
    assert rate_goal(VaeConfig(target_rate=4.0, autoencoder_share=0.0, annealing_share=0.0), 1e-6) == 4


@given(st.floats(0.5, 20), st.floats(0.3, 30))
def test_controller_finds_the_weight_of_any_plant(target, gain):
    """Where the rate answers as gain / weight, slowly and with noise, its mean comes to the target whatever the gain."""
    config = VaeConfig(target_rate=target, autoencoder_share=0.1, annealing_share=0.1)
    figures, rate, seen, noise = {}, 100.0, [], torch.randn(3000, generator=torch.Generator().manual_seed(0)).mul(0.3).tolist()
    for step, each in enumerate(noise):
        weight = rate_weight(rate * max(1 + each, 0.0), config, step / 3000, figures)
        rate += 0.02 * ((gain / weight if weight else 100.0) - rate)
        seen.append(rate)
    assert sum(seen[-1000:]) / 1000 == pytest.approx(target, rel=0.05)


def test_controller_forgets_nothing_when_stopped():
    """What it remembers is in the figures, whose numbers a saved state keeps bit by bit."""
    config, rates = VaeConfig(target_rate=3.0), [50.0, 30.0, 7.5, 2.25, 3.125, 2.0]
    whole, halves = {}, {}
    expected = [rate_weight(rate, config, place / 6, whole) for place, rate in enumerate(rates)]
    found = [rate_weight(rate, config, place / 6, halves) for place, rate in enumerate(rates[:3])]
    halves = json.loads(json.dumps(halves))
    found += [rate_weight(rate, config, place / 6, halves) for place, rate in enumerate(rates[3:], 3)]
    assert found == expected


@pytest.mark.parametrize("prior", ["standard", "emotion"])
def test_resumed_training_is_the_same_bit_by_bit(prior):
    """Eight steps, or four, a saved state, and four more."""
    config = VaeConfig(learning_rate=1e-2, target_rate=2.0, precision="float32", autoencoder_share=0.1, annealing_share=0.3)
    batch = eight_sentences()

    def advance(vae, state, steps):
        for step in train_vae(vae, [batch] * steps, config, state):
            state.progress = step.number / 8

    torch.manual_seed(5)
    whole = tiny_vae(prior=prior)
    begun, resumed = copy.deepcopy(whole), copy.deepcopy(whole)
    advance(whole, state_of(whole), 8)
    advance(begun, state := state_of(begun), 4)
    advance(resumed, again := resumed_state(resumed, state), 4)
    assert again.figures["rate_log_weight"] != state.figures["rate_log_weight"]
    for name, weight in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], weight, atol=0, rtol=0)


def resumed_state(vae, state):
    again = state_of(vae)
    again.restore(state.dump(), "memory")
    return again


def train(vae, batch, config, steps):
    state = state_of(vae)
    loop = train_vae(vae, [batch] * steps, config, state)
    for step in loop:
        state.progress = step.number / steps
        last = step.figures
    return last


@pytest.mark.parametrize("backbone", ["lstm", "transformer"])
def test_eight_sentences_are_learnt_through_the_latent(backbone):
    """At least half of the dimensions active, and what z must say is read from it."""
    vae, batch = tiny_vae(backbone, width=32), eight_sentences()
    config = VaeConfig(learning_rate=1e-2, emotion_dropout=0.0, target_rate=4.0, precision="float32")
    first = held_out_elbo(vae, [batch])
    train(vae, batch, config, 300)
    found = held_out_elbo(vae, [batch], draws=32)
    assert found["active_units"] >= LATENT / 2
    assert found["mutual_information"] > 1
    assert found["reconstruction"] < 0.5 * first["reconstruction"]
    assert found["elbo_nll"] == pytest.approx(found["reconstruction"] + found["kl"])


@pytest.mark.parametrize(("target", "prior"), [(1.0, "standard"), (3.0, "standard"), (3.0, "emotion")])
def test_rate_is_held(target, prior):
    """The mean KL of the last steps is within a tenth of the target; so is the posterior's own afterwards."""
    vae, batch = tiny_vae(prior=prior), eight_sentences()
    config = VaeConfig(learning_rate=5e-3, emotion_dropout=0.0, target_rate=target, precision="float32", rate_floor=0.0)
    state, rates = state_of(vae), []
    for step in train_vae(vae, [batch] * 500, config, state):
        state.progress = step.number / 500
        rates.append(step.figures["kl"])
    assert sum(rates[-100:]) / 100 == pytest.approx(target, rel=0.1)
    assert held_out_elbo(vae, [batch])["kl"] == pytest.approx(target, rel=0.1)


def test_prior_of_an_emotion_begins_at_the_standard_normal():
    vae = tiny_vae(prior="emotion")
    found = vae.decoder.prior(torch.eye(EMOTIONS + 1))
    assert found.mean.shape == found.log_variance.shape == (EMOTIONS + 1, LATENT)
    assert not found.mean.any()
    assert not found.log_variance.any()


@torch.no_grad()
def test_kl_to_the_prior_of_an_emotion():
    """PyTorch's own closed form of the divergence of two normal distributions; a mixture's prior lies between its labels'."""
    vae = tiny_vae(prior="emotion")
    vae.decoder.prior_map.weight.normal_()
    emotion = torch.tensor([[1.0, 0.0, 0.0], [0.25, 0.75, 0.0]])
    prior, posterior = vae.decoder.prior(emotion), Gaussian(torch.randn(2, LATENT), torch.randn(2, LATENT))
    expected = kl_divergence(*(Normal(each.mean, (0.5 * each.log_variance).exp()) for each in (posterior, prior)))
    torch.testing.assert_close(kl_to_prior(posterior, prior), expected)
    ends = vae.decoder.prior(torch.eye(3)[:2])
    torch.testing.assert_close(prior.mean[1], 0.25 * ends.mean[0] + 0.75 * ends.mean[1])


def test_prior_of_an_emotion_is_learnt():
    """Two emotions whose replies begin with other tokens, without an adversary: their priors part."""
    vae, batch = tiny_vae(width=32, prior="emotion"), eight_sentences()
    config = VaeConfig(learning_rate=1e-2, target_rate=3.0, precision="float32", adversary_weight=0.0)
    train(vae, batch, config, 100)
    means = vae.decoder.prior(torch.eye(3)[:2]).mean
    assert (means[0] - means[1]).abs().max() > 0.05


def test_figures_of_a_step_belong_to_its_batch():
    """Active units and KL as the posterior of the model before the update gives them."""
    vae, batch = tiny_vae(), eight_sentences()
    with torch.no_grad():
        before = vae.encode(batch.tokens, batch.reply_start, batch.emotion)
    kl = 0.5 * (before.log_variance.exp() + before.mean**2 - 1 - before.log_variance).sum(1).mean()
    figures = train(vae, batch, VaeConfig(precision="float32", emotion_dropout=0.0), 1)
    assert figures["kl"] == pytest.approx(float(kl), rel=1e-5)
    assert figures["active_units"] == active_units(before.mean)
    assert set(figures) == {
        *("reconstruction", "kl", "active_units", "mutual_information", "rate_weight"),
        *("loss", "learning_rate", "gradient_norm"),
    }


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
