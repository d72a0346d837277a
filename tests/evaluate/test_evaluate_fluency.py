"""Perplexity against nltk's language models and uniform models, whose figures are known; units that do not need a tokenizer."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.lm import Laplace
from nltk.lm.preprocessing import pad_both_ends, padded_everygram_pipeline
from nltk.util import bigrams

from emogen.errors import DataError, SettingsError
from emogen.evaluate.fluency import (
    nats_per_character,
    nats_per_sentence,
    perplexity,
    reverse_perplexity,
)
from emogen.text.words import words

ALL = (perplexity, reverse_perplexity, nats_per_character, nats_per_sentence)
TEXTS = st.lists(st.text("ab 我🙂!", max_size=8), min_size=1, max_size=8)


def test_perplexity_of_a_bigram_model_equals_nltk():
    """nltk counts the end of each sentence as we do."""
    training = [words(text) for text in ("I am glad", "I am so sad today", "you are glad")]
    model = Laplace(2)
    model.fit(*padded_everygram_pipeline(2, training))
    texts = ["I am sad", "you are so glad today", "", "who am I"]
    pairs = [list(bigrams(pad_both_ends(words(text), n=2))) for text in texts]
    nats = [-math.log(2) * sum(model.logscore(word, [before]) for before, word in own) for own in pairs]
    expected = model.perplexity([pair for own in pairs for pair in own])
    assert perplexity(texts, nats, "bigrams").value == pytest.approx(expected)
    assert reverse_perplexity(texts, nats, "bigrams").value == pytest.approx(expected)


@given(TEXTS, st.integers(2, 50_000))
def test_uniform_models_have_the_figures_of_their_alphabet(texts, kinds):
    """A choice among `kinds` words (or characters) and an end costs ln(kinds) each."""
    by_word = [math.log(kinds) * (len(words(text)) + 1) for text in texts]
    assert perplexity(texts, by_word, "uniform").value == pytest.approx(kinds)
    by_character = [math.log(kinds) * (len(text) + 1) for text in texts]
    found = nats_per_character(texts, by_character, "uniform")
    assert (found.value, found.low, found.high) == pytest.approx((math.log(kinds),) * 3)


def test_figures_by_hand():
    """6 and 3 nats over 2 and 1 words, 3 and 2 characters (Chinese: a character is a word), each with its end."""
    texts, nats = ["a b", "我。"], [6.0, 3.0]
    assert perplexity(texts, nats, "m").value == pytest.approx(math.exp(9 / 6))
    assert nats_per_character(texts, nats, "m").value == pytest.approx(9 / 7)
    assert nats_per_sentence(texts, nats, "m").value == pytest.approx(4.5)


def test_empty_text_has_its_end_alone():
    for metric, expected in zip(ALL, (math.e**2, math.e**2, 2, 2), strict=True):
        assert metric([""], [2.0], "m").value == pytest.approx(expected)


@settings(max_examples=10)
@given(TEXTS, st.integers(1, 9))
def test_callable_is_asked_in_batches_and_gives_the_same(texts, size):
    target = []

    def score(batch):
        target.append(list(batch))
        return np.array([3.5 * len(text) for text in batch])

    for metric in ALL:
        target.clear()
        assert metric(iter(texts), score, "m", size) == metric(texts, [3.5 * len(text) for text in texts], "m")
        assert [text for batch in target for text in batch] == texts
        assert max(map(len, target)) <= size


def test_interval_of_the_mean_is_normal_for_many_texts():
    """Mean plus and minus 1.96 standard errors, by the central limit theorem; 1000 resamples give it to some 5%."""
    nats = np.random.default_rng(0).gamma(4, 5, size=1000)
    found = nats_per_sentence(["a"] * 1000, nats, "m")
    error = 1.96 * nats.std() / 1000**0.5
    assert (found.low, found.high) == pytest.approx((nats.mean() - error, nats.mean() + error), abs=0.2 * error)


def test_interval_is_that_of_the_tally_and_its_seed():
    texts, nats = ["a b", "c", "d e f"], np.array([9.0, 2.0, 30.0])
    for metric in ALL:
        found = metric.statistic(texts, nats, "m").score(4)
        assert found.value == metric(texts, nats, "m").value
        assert found.signature.endswith("seed:4")
        assert found.low < found.value < found.high


def test_signatures_name_model_and_unit():
    signed = [metric(["a b", "c"], [1.0, 2.0], "gpt2@main").signature for metric in ALL]
    starts = [
        "perplexity|model:gpt2@main|unit:word+end|words:v2|texts:2|version:",
        "reverse_perplexity|model:gpt2@main|unit:word+end|words:v2|texts:2|version:",
        "nats_per_character|model:gpt2@main|unit:character+end|texts:2|version:",
        "nats_per_sentence|model:gpt2@main|unit:text|texts:2|version:",
    ]
    assert all(full.startswith(start) for full, start in zip(signed, starts, strict=True))
    assert all(full.endswith("|bs:1000|seed:0") for full in signed)


def test_perplexity_beyond_numbers_is_held():
    found = perplexity(["a", "b"], [1e6, 1e7], "m")
    assert found.low == found.value == found.high == pytest.approx(math.exp(709))


def test_rounding_below_0_counts_as_0():
    assert perplexity(["a"], [-1e-5], "m").value == 1


@pytest.mark.parametrize("metric", ALL)
@pytest.mark.parametrize(
    ("texts", "nats", "message"),
    [
        (["a", "b"], [1.0, math.nan], r"nats\[1\] is nan"),
        (["a", "b"], [math.inf, 1.0], r"nats\[0\] is inf"),
        (["a"], [-7.5], r"nats\[0\] is -7.5: pass the negative log-likelihood"),
        (["a"], [1.0, 2.0], "1 texts but 2 log-likelihoods"),
        ([], [], "no texts to score"),
        ([], lambda batch: [1.0], "no items to score"),
        (["a", "b"], lambda batch: [1.0], r"texts\[0\] and after: the model gave 1 log-likelihoods for 2 texts"),
    ],
)
def test_what_cannot_be_scored_is_refused(metric, texts, nats, message):
    with pytest.raises(DataError, match=message):
        metric(texts, nats, "m")


def test_streams_of_other_lengths_are_refused():
    with pytest.raises(DataError, match="1 log-likelihoods but more texts"):
        perplexity(iter(["a", "b"]), iter([1.0]), "m")


def test_batches_below_1_are_refused():
    with pytest.raises(SettingsError, match="batch_size is 0"):
        perplexity(["a"], lambda batch: [1.0], "m", batch_size=0)
