"""How well replies fit a context, against token by token sums and against numpy."""

import numpy as np
import pytest
import torch

from emogen.checkpoint.model import load
from emogen.dialogue.context_fit import cosine, mutual_information
from emogen.emotions.labels import no_emotion
from emogen.recognition.encoder import TextEncoder
from emogen.text.tokenizer import EOS

REPLIES = ["Day 3 was great, we won.", "no", "Day 4 was awful, I cried. Day 5 was great. So it goes on and on!", "我很好 😀"]


@pytest.fixture(scope="module")
def model(tiny_checkpoint):
    return load(tiny_checkpoint)


def log_likelihood(model, context, reply):
    """One row alone, its tokens picked one by one from the whole vocabulary's log softmax."""
    prefix = model.tokenizer.prefix(context, model.description.limits.context_tokens)
    tokens = torch.tensor([[*prefix, *model.tokenizer.encode(reply), EOS]])
    condition = torch.tensor([no_emotion(model.labels).condition])
    with torch.inference_mode():
        states = model.generator(tokens[:, :-1], condition)
        scores = model.generator.logits(states).log_softmax(-1)[0]
    return sum(float(scores[place - 1, tokens[0, place]]) for place in range(len(prefix), tokens.shape[1]))


def test_mutual_information_is_the_likelihood_given_less_that_alone(model):
    context = ["How was day 3?", "Fine.", "And day 4?"]
    expected = [log_likelihood(model, context, reply) - log_likelihood(model, [], reply) for reply in REPLIES]
    assert mutual_information(model, context)(REPLIES) == pytest.approx(expected, abs=1e-4)


def test_without_a_context_nothing_is_gained(model):
    assert mutual_information(model, [])(REPLIES) == pytest.approx([0] * len(REPLIES))
    assert mutual_information(model, ["so"])([]).shape == (0,)


def test_batches_change_nothing(model):
    """More replies than one batch takes, long ones among them."""
    fit = mutual_information(model, ["How was day 3?"])
    many = [f"Day {number} was {'great ' * (number % 90)}." for number in range(150)]
    assert fit(many) == pytest.approx(np.concatenate([fit([text]) for text in many]), abs=1e-4)


def test_of_a_very_long_reply_the_beginning_counts(model):
    fit = mutual_information(model, ["so " * 100_000])
    assert np.isfinite(fit(["we won " * 100_000, "\0 \u202e"])).all()
    assert fit(["we won " * 5_000]) == pytest.approx(fit(["we won " * 6_000]))


def test_cosine_of_an_encoder(small_bert):
    encoder = TextEncoder(small_bert(), "small-bert")
    texts = ["so happy", "very sad day", "no"]
    context, replies = encoder.sentences(["bad day\nso sad"])[0], encoder.sentences(texts)
    assert cosine(encoder, ["bad day", "so sad"])(texts) == pytest.approx(replies @ context)
    assert cosine(encoder, ["so happy"])(["so happy"]) == pytest.approx([1])
    assert cosine(encoder, ["so happy"])([]).shape == (0,)
