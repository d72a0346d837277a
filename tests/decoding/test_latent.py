"""The latent space in use: texts near a text, the way between two, another emotion for a text."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from emogen.data.batches import Limits
from emogen.decoding import transfer as transfers
from emogen.decoding.latent import interpolate, latent_space, move_latents, near, path_between, posterior
from emogen.decoding.texts import Sample
from emogen.decoding.transfer import kept, own_guide, plain_sentences, transfer
from emogen.decoding.transfer_options import TransferOptions
from emogen.emotions.labels import LabelSet, mixture
from emogen.errors import CheckpointError, DataError, SettingsError
from emogen.models.generator import Generator, GeneratorConfig
from emogen.models.losses import Gaussian
from emogen.models.vae import TextVAE, TextVaeConfig
from emogen.text.tokenizer import train_tokenizer

PAIR = LabelSet(("joy", "sadness"))
JOY, SADNESS = (mixture({name: 1.0}, PAIR) for name in PAIR.names)
TEXTS = ["We won the game today.", "I cried all day long.", "The dog is old, I am sad.", "What a great day, thank you!"]
FEW = TransferOptions(samples=3, sentences=0, rounds=2, best=2, edits=6, temperature=0.9)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS * 4)


@pytest.fixture
def space(tokenizer):
    decoder = GeneratorConfig(tokenizer.vocabulary, 2, width=16, latent=4, prior="emotion")
    vae = TextVAE(TextVaeConfig(decoder, encoder_layers=1, encoder_heads=4))
    vae.posterior.weight.data *= 5
    vae.decoder.prior_map.weight.data.normal_()
    return latent_space(vae, tokenizer, PAIR, Limits(), "vae")


def likes_dogs(texts):
    """A guide that finds joy where a dog is."""
    return np.array([[0.9, 0.1] if "dog" in text else [0.2, 0.8] for text in texts])


def likes_length(texts):
    """A guide that finds joy in many words, sadness in few."""
    joy = np.array([min(len(text.split()) / 20, 1.0) for text in texts])
    return np.stack([joy, 1 - joy], 1)


def test_posterior_of_a_text_stands_alone(space):
    """Beside longer texts, a text has the latent that it has on its own."""
    together = posterior(space, TEXTS)
    for row, text in enumerate(TEXTS):
        torch.testing.assert_close(together.mean[row], posterior(space, [text]).mean[0], atol=1e-5, rtol=1e-5)
    assert posterior(space, []).mean.shape == (0, 4)


def test_near_a_text(space):
    """No spread gives the mean; the deviations grow with it; more latents do not change the first."""
    found = posterior(space, TEXTS[:1])
    torch.testing.assert_close(near(space, TEXTS[0], 3, 0.0), found.mean.expand(3, -1))
    one, two = (near(space, TEXTS[0], 3, spread, seed=7) - found.mean for spread in (1.0, 2.0))
    torch.testing.assert_close(two, 2 * one)
    torch.testing.assert_close(near(space, TEXTS[0], 5, seed=7)[:3], near(space, TEXTS[0], 3, seed=7))
    many = near(space, TEXTS[0], 4000)
    torch.testing.assert_close(many.std(0), (0.5 * found.log_variance[0]).exp(), atol=0, rtol=0.05)


def test_moved_to_another_prior():
    """As many deviations from the other mean; back again; and nothing happens between equal priors."""
    source, target = (Gaussian(torch.randn(1, 4), torch.randn(1, 4)) for _ in range(2))
    latent = torch.randn(5, 4)
    there = move_latents(latent, source, target)
    expected = (latent - source.mean) / (0.5 * source.log_variance).exp() * (0.5 * target.log_variance).exp() + target.mean
    torch.testing.assert_close(there, expected)
    torch.testing.assert_close(move_latents(there, target, source), latent)
    torch.testing.assert_close(move_latents(latent, source, source), latent)


def test_way_between_two_texts(space):
    """Equal steps on a straight line whose ends are the texts' own latents; one text for each."""
    path = path_between(space, TEXTS[0], TEXTS[1], 5)
    torch.testing.assert_close(path[[0, -1]], posterior(space, TEXTS[:2]).mean)
    torch.testing.assert_close(path.diff(dim=0), path.diff(dim=0)[:1].expand(4, -1), atol=1e-5, rtol=1e-4)
    texts = interpolate(space, TEXTS[0], TEXTS[1], 5, JOY)
    assert [found.emotion for found in texts] == ["joy"] * 5
    assert texts == interpolate(space, TEXTS[0], TEXTS[1], 5, JOY)


def test_transfer_gives_a_text_for_each(space):
    """In order, as well judged as the source at least, the same for the same seed, and whatever stands beside it."""
    found = list(transfer(space, TEXTS, JOY, FEW, likes_dogs))
    assert [each.source for each in found] == TEXTS
    assert {each.emotion for each in found} == {"joy"}
    assert all(each.text.strip() for each in found)
    assert found == list(transfer(space, TEXTS, [JOY] * 4, FEW, likes_dogs))
    assert found[2:3] == list(transfer(space, TEXTS[2:3], JOY, FEW, likes_dogs, first=2))
    bold = replace(FEW, keep=0.0, fluency=0.0, seed=1)
    assert list(transfer(space, TEXTS, JOY, bold, likes_length)) != list(
        transfer(space, TEXTS, JOY, replace(bold, seed=2), likes_length)
    )


def test_transfer_leaves_alone_what_is_right(space):
    """The source is a candidate: nothing keeps more of it, and here nothing is likelier."""
    (found,) = transfer(space, TEXTS[2:3], JOY, replace(FEW, fluency=0.0), likes_dogs)
    assert found.text == TEXTS[2]
    assert (found.kept, found.probability) == (1.0, pytest.approx(0.9))


def brief(texts):
    return likes_length(texts)[:, ::-1]


SHORTEN = TransferOptions(samples=0, sentences=0, rounds=6, best=2, edits=12, temperature=0.9, keep=0.0, fluency=0.0)


def test_transfer_follows_the_guide(space):
    """Where words are not to be kept and the guide wants few of them, edits make the text shorter."""
    (found,) = transfer(space, TEXTS[2:3], JOY, SHORTEN, brief)
    assert len(found.text.split()) < len(TEXTS[2].split())


def test_edits_leave_the_marks_of_sentences(space):
    (found,) = transfer(space, ["We won. I cried all day long! And you?"], JOY, SHORTEN, brief)
    assert len(found.text.split()) < 8
    assert re.search(r"\..*!.*\?$", found.text)


def test_sentences_of_an_emotion(space, monkeypatch):
    """What the decoder begins with most, weighed by the guide, without stutters; it stands before or behind the text."""
    begins = ["We won. And", "We won. But", "We won.", "My dog! He", "My dog! She", "Oh my! Ha", "Ha ha!", "Endless", "No."]
    samples = [Sample(text, "joy", -1.0, 3, True) for text in begins]
    monkeypatch.setattr(transfers, "written", lambda *_: iter(samples))
    found = plain_sentences(space, JOY, replace(FEW, sentences=9), likes_dogs)
    assert found == ["My dog!", "We won.", "Oh my!"]
    assert plain_sentences(space, SADNESS, replace(FEW, sentences=1), likes_dogs) == ["We won."]
    options = TransferOptions(samples=0, sentences=1, rounds=0, keep=0.0, fluency=0.0)
    (each,) = transfer(space, TEXTS[:1], JOY, options, likes_dogs)
    assert each.text in (f"My dog! {TEXTS[0]}", f"{TEXTS[0]} My dog!")
    (each,) = transfer(space, ["We won"], JOY, options, likes_dogs)
    assert each.text == "My dog! We won"


def test_kept_words():
    """Dice by letters: worked out by hand."""
    assert kept("a bb ccc", "a bb ccc") == 1
    assert kept("a bb ccc", "dddd") == 0
    assert kept("aa bbbb", "bbbb aa bbbb") == pytest.approx(2 * 6 / (6 + 10))
    assert kept("A bb", "a BB") == 1
    assert kept("", "") == 0


@torch.no_grad()
def test_own_guide_is_the_class_likelihood(space):
    """Probabilities that sum to 1; a text alone has those that it has beside others."""
    guide = own_guide(space)
    found = guide(TEXTS)
    assert found.shape == (4, 2)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(guide(TEXTS[1:2])[0], found[1], rtol=1e-3)


@pytest.mark.parametrize("latent", [0, 4])
def test_model_without_encoder(tokenizer, latent):
    generator = Generator(GeneratorConfig(tokenizer.vocabulary, 2, width=16, latent=latent))
    with pytest.raises(CheckpointError, match=r"runs/lm: .* no latent of a text; .* emogen train-vae FILES"):
        latent_space(generator, tokenizer, PAIR, Limits(), "runs/lm")


def test_texts_that_have_no_latent(space):
    with pytest.raises(DataError, match="text 2 is empty"):
        posterior(space, ["a", " \n"])
    with pytest.raises(DataError, match=r"line 8, 'We won.*: is .* tokens long, the model reads 40"):
        list(transfer(space, [TEXTS[0] * 9], JOY, FEW, likes_dogs, first=7))


def test_impossible_options(space):
    for options in (
        {"samples": -1},
        {"best": 0},
        {"temperature": 0.0},
        {"keep": -1.0},
        {"samples": 0, "sentences": 0, "rounds": 0},
    ):
        with pytest.raises(SettingsError, match="--"):
            TransferOptions(**options)
    with pytest.raises(SettingsError, match="--steps 1"):
        path_between(space, "a", "b", 1)
    with pytest.raises(SettingsError, match="--spread -1"):
        near(space, "a", 1, -1.0)
