"""Likelihood under the toolkit's own models, and the small model of reverse perplexity."""

import random

import numpy as np
import pytest
import torch

from emogen.checkpoint.model import load
from emogen.data.batches import Limits, batches, token_arrays
from emogen.data.exchange import Exchange
from emogen.emotions.labels import no_emotion
from emogen.errors import CheckpointError, DataError
from emogen.train.language_model import ReverseTraining, load_language_model, own_model, train_reverse
from emogen.train.loops.mle import held_out_nll

TEXTS = ["Day 3 was great, we won.", "no", "", "Day 4 was awful, I cried. " * 4, "👍🏽 我很开心"]
QUICK = ReverseTraining(width=48, epochs=15, batch_size=16, learning_rate=2e-2)


@pytest.fixture(scope="module")
def model(tiny_checkpoint):
    return own_model(load(tiny_checkpoint))


def test_likelihood_is_that_of_held_out_rows(model, tmp_path):
    """The sum over the same rows, asked for no emotion and without context, as `held_out_nll` finds it."""
    rows = [Exchange((), text, no_emotion(model.labels), "train") for text in TEXTS if text]
    arrays = token_arrays("rows", lambda: rows, model.tokenizer, model.labels, Limits(0, 512), tmp_path)["train"]
    assert len(arrays) == len(rows)
    (batch,) = (batch for batch, _ in zip(batches(arrays, len(rows), 0), range(1), strict=False))
    found = held_out_nll(model.generator, [batch])["nll_reply"] * len(rows)
    assert model.nll([row.reply for row in rows]).sum() == pytest.approx(found, rel=1e-5)


def test_likelihood_depends_on_no_batch(model):
    texts = [*TEXTS, *(f"Day {n} was {'so ' * n}fine." for n in range(40))]
    together = model.nll(texts)
    assert together.shape == (len(texts),)
    assert (together > 0).all()
    np.testing.assert_allclose([model.nll([text])[0] for text in texts], together, rtol=1e-4)
    np.testing.assert_allclose(model.nll(texts[::-1])[::-1], together, rtol=1e-4)
    assert model.nll([]).shape == (0,)


def test_a_checkpoint_is_a_language_model_by_its_folder(model, tiny_checkpoint, tmp_path):
    found = load_language_model(str(tiny_checkpoint))
    assert found.name == tiny_checkpoint.name
    np.testing.assert_array_equal(found.nll(TEXTS), model.nll(TEXTS))
    with pytest.raises(CheckpointError, match="no checkpoint there"):
        load_language_model(str(tmp_path))


def sentences(count, seed):
    """A toy language: who does what to whom, always in that order."""
    draw = random.Random(seed)
    who, does = ("the cat", "the dog", "a bird", "my friend"), ("sees", "likes", "follows", "calls")
    return [f"{draw.choice(who)} {draw.choice(does)} {draw.choice(who)} today." for _ in range(count)]


@pytest.fixture(scope="module")
def reverse():
    return train_reverse(sentences(200, 0), QUICK)


def test_a_language_is_likelier_than_its_words_in_disorder(reverse):
    held_out = sentences(50, 1)
    shuffled = [" ".join(random.Random(at).sample(text.split(), len(text.split()))) for at, text in enumerate(held_out)]
    assert reverse.nll(held_out).mean() < 0.5 * reverse.nll(shuffled).mean()


def test_it_does_not_pass_the_entropy_of_the_language(reverse):
    """Three even choices out of four are 3 ln 4 = 4.16 nats a sentence; an untrained model needs about 30 ids of 5.6 nats."""
    found = reverse.nll(sentences(400, 1)).mean()
    assert 3 * np.log(4) - 0.1 < found < 40


def test_the_seed_decides(reverse):
    texts = sentences(40, 0)
    training = ReverseTraining(width=16, epochs=1, batch_size=16)
    first = train_reverse(texts, training).nll(texts)
    torch.rand(3)
    np.testing.assert_array_equal(train_reverse(texts, training).nll(texts), first)
    other = ReverseTraining(width=16, epochs=1, batch_size=16, seed=1)
    assert not np.array_equal(train_reverse(texts, other).nll(texts), first)


def test_one_sentence_over_and_over_is_enough():
    """What a collapsed generator writes holds few pieces of words."""
    training = ReverseTraining(width=16, epochs=2)
    model = train_reverse(["I am fine."] * 50, training)
    assert model.nll(["I am fine."])[0] < model.nll(["You were there."])[0]


def test_nothing_to_train_on_is_refused():
    for texts in ([], ["", "  \n"]):
        with pytest.raises(DataError, match="no text to train the model of reverse perplexity on"):
            train_reverse(texts)
