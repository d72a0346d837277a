"""The discriminator made of language models: values against the models' own likelihoods, and what it learns."""

import copy
import math
from dataclasses import replace

import pytest
import torch

from emogen.data.batches import Batch
from emogen.models.discriminator import score
from emogen.models.generator import Generator, GeneratorConfig
from emogen.models.likelihood import reply_nll
from emogen.models.likelihood_ratio import LikelihoodRatioDiscriminator
from emogen.text.tokenizer import BOS, EOS, PAD, TURN
from emogen.train.config import GanConfig
from emogen.train.gan.trajectories import Adversaries
from emogen.train.loops.gan import train_gan
from emogen.train.run.state import TrainState, adamw


def language_model(seed):
    torch.manual_seed(seed)
    return Generator(GeneratorConfig(12, 2, "lstm", width=8, layers=1, heads=2, dropout=0.3)).eval()


def batch():
    """A plain row, one with a context, and one that ends early."""
    tokens = torch.tensor([[BOS, 5, 6, 7, EOS, PAD, PAD], [9, TURN, 8, BOS, 10, 11, EOS], [BOS, 6, EOS, PAD, PAD, PAD, PAD]])
    return Batch(tokens, torch.tensor([1, 4, 1]), torch.eye(3))


def test_the_odds_are_those_of_the_likelihoods():
    """By hand from `reply_nll`: with scale 2 and offset 1 for one reader, mean over two."""
    readers, reference = [language_model(1), language_model(2)], language_model(3)
    model = LikelihoodRatioDiscriminator(readers, reference).eval()
    model.scale.data, model.offset.data = torch.tensor([2.0, 1.0]), torch.tensor([1.0, 0.0])
    rows = batch()
    nll = [reply_nll(each, rows.tokens, rows.reply_start, rows.emotion)[0] for each in (*readers, reference)]
    found = score(model, rows.tokens, rows.emotion)
    expected = (1 + 2 * (nll[2] - nll[0]).cumsum(1) + (nll[2] - nll[1]).cumsum(1)) / 2
    torch.testing.assert_close(found[:, 1:], expected)
    torch.testing.assert_close(found[:, 0], torch.full((3,), 0.5))


def test_readers_that_are_the_reference_know_nothing():
    """Log odds 0 at every prefix."""
    reference = language_model(3)
    model = LikelihoodRatioDiscriminator([copy.deepcopy(reference)], reference).eval()
    assert model(batch().tokens, batch().emotion).abs().max() < 1e-6


def test_a_prefix_does_not_know_what_comes_behind_it():
    """The odds up to a place stay when later tokens change."""
    model = LikelihoodRatioDiscriminator([language_model(1)], language_model(2)).eval()
    rows = batch()
    other = rows.tokens.clone()
    other[0, 3] = 11
    found, again = (model(tokens, rows.emotion)[0] for tokens in (rows.tokens, other))
    torch.testing.assert_close(found[:3], again[:3])
    assert not torch.equal(found[3:], again[3:])


def test_the_reference_is_no_part_of_it():
    """Neither in its weights nor in its saved state, and never in training mode."""
    reference = language_model(2)
    model = LikelihoodRatioDiscriminator([language_model(1)], reference).train()
    own = {id(parameter) for parameter in model.parameters()}
    assert not own & {id(parameter) for parameter in reference.parameters()}
    assert len(own) == 2 + len(list(reference.parameters()))
    assert not any(name.startswith("_") for name in model.state_dict())
    assert model.readers[0].training
    assert not reference.training


@pytest.mark.parametrize("estimator", ["dense", "rollout"])
def test_training_moves_readers_and_leaves_the_reference(estimator):
    """Begun as the generator itself, a reader comes to prefer the real rows: the loss falls from log 2 (chance)."""
    generator = language_model(4)
    reference = copy.deepcopy(generator)
    model = LikelihoodRatioDiscriminator([copy.deepcopy(generator)], reference)
    kept = copy.deepcopy(reference.state_dict())
    state = TrainState({}, {"generator": adamw(generator), "discriminator": adamw(model)}, torch.Generator().manual_seed(0))
    config = GanConfig(
        estimator=estimator, potential="log-odds", samples=2, rollouts=1, max_tokens=5, warmup_steps=20,
        discriminator_rate=1e-2, accuracy_ceiling=1.0, precision="float32",
    )  # fmt: skip
    rows = replace(batch(), tokens=batch().tokens.clone())
    figures = [step.figures for step in train_gan(Adversaries(generator, reference, model), [rows] * 22, config, state)]
    assert figures[0]["discriminator"] == pytest.approx(math.log(2), abs=0.05)
    assert figures[-1]["discriminator"] < 0.5
    assert figures[-1]["accuracy"] > 0.8
    assert "kl" in figures[-1]
    for name, value in reference.state_dict().items():
        torch.testing.assert_close(value, kept[name], atol=0, rtol=0)
