"""Emotion accuracy and F1 against closed forms and nltk; the bootstrap of a mean against theory."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.metrics import ConfusionMatrix

from emogen.errors import DataError
from emogen.evaluate import bootstrap_interval, emotion_accuracy, emotion_f1

LABELS = ["anger", "joy", "sadness", "喜悦"]
PAIRS = st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from(LABELS)), min_size=1, max_size=20)
UNTIMED = settings(deadline=None, max_examples=50)


def test_accuracy_by_hand():
    """Three of four, with sacrebleu's form of signature."""
    found = emotion_accuracy(["joy", "joy", "anger", "喜悦"], ["joy", "anger", "anger", "喜悦"], seed=5)
    assert found.value == 3 / 4
    assert found.signature.startswith("emotion_accuracy|texts:4|bs:1000|seed:5|version:")


def test_f1_by_hand():
    """F1 of joy is 2*1/(2+1), of anger 2*1/(1+2), of sadness 0 of 1; 喜悦 was neither asked for nor judged."""
    found = emotion_f1(["joy", "joy", "anger"], ["joy", "anger", "anger"], LABELS)
    assert found.value == pytest.approx((2 / 3 + 2 / 3) / 2)
    assert emotion_f1(["joy", "joy"], ["joy", "sadness"], LABELS).value == pytest.approx((2 / 3 + 0) / 2)
    assert found.signature.startswith("emotion_f1|average:macro|labels:4|texts:3|bs:1000|seed:0|version:")


@UNTIMED
@given(PAIRS)
def test_f1_equals_nltk(pairs):
    """The mean of the F-measures of nltk's confusion matrix, over the labels that occur."""
    asked, judged = zip(*pairs, strict=True)
    matrix = ConfusionMatrix(asked, judged)
    measures = [matrix.f_measure(label) for label in {*asked, *judged}]
    assert emotion_f1(asked, judged, LABELS).value == pytest.approx(np.mean(measures))


@UNTIMED
@given(PAIRS)
def test_intervals_lie_within_the_scale(pairs):
    """And the same seed gives the same interval."""
    asked, judged = zip(*pairs, strict=True)
    for found, again in [
        (emotion_accuracy(asked, judged), emotion_accuracy(asked, judged)),
        (emotion_f1(asked, judged, LABELS), emotion_f1(asked, judged, LABELS)),
    ]:
        assert 0 <= found.low <= found.high <= 1
        assert found == again


@UNTIMED
@given(st.lists(st.sampled_from(LABELS), min_size=1, max_size=20))
def test_agreement_scores_1(labels):
    """In every resample, even where rare labels fall out."""
    for found in (emotion_accuracy(labels, labels), emotion_f1(labels, labels, LABELS)):
        assert (found.value, found.low, found.high) == (1, 1, 1)


@UNTIMED
@given(PAIRS, st.randoms(use_true_random=False))
def test_order_of_texts_and_of_labels_does_not_matter(pairs, random):
    """Both are functions of the confusion matrix."""
    asked, judged = zip(*pairs, strict=True)
    mixed_asked, mixed_judged = zip(*random.sample(pairs, len(pairs)), strict=True)
    assert emotion_accuracy(mixed_asked, mixed_judged).value == pytest.approx(emotion_accuracy(asked, judged).value)
    mixed = emotion_f1(mixed_asked, mixed_judged, LABELS[::-1])
    assert mixed.value == pytest.approx(emotion_f1(asked, judged, LABELS).value)


def test_interval_of_accuracy_is_that_of_a_binomial_share():
    """Quantiles of Binomial(100, 0.8) / 100: 0.72 and 0.87 (tables), each to the next hundredth."""
    found = emotion_accuracy(["joy"] * 100, ["joy"] * 80 + ["anger"] * 20)
    assert (found.low, found.high) == pytest.approx((0.72, 0.87), abs=0.0101)


@pytest.mark.parametrize(("level", "deviations"), [(0.95, 1.96), (0.8, 1.2816)])
def test_bootstrap_interval_of_a_mean_is_normal_for_many_items(level, deviations):
    """Mean plus and minus z standard errors, by the central limit theorem; 4000 resamples give it to some 3%."""
    values = np.arange(1000.0)
    low, high = bootstrap_interval(values, seed=0, resamples=4000, level=level)
    error = values.std() / 1000**0.5
    expected = (values.mean() - deviations * error, values.mean() + deviations * error)
    assert (low, high) == pytest.approx(expected, abs=0.12 * error)


def test_bootstrap_interval_of_one_value_is_the_value():
    """There is nothing else to draw."""
    assert bootstrap_interval(np.array([0.25]), seed=0) == (0.25, 0.25)


def test_lists_that_do_not_fit_are_refused():
    """The message names the numbers, or the place and the labels there are."""
    with pytest.raises(DataError, match="1 asked labels but 2 judged labels"):
        emotion_accuracy(["joy"], ["joy", "joy"])
    with pytest.raises(DataError, match="no asked labels"):
        emotion_f1([], [], LABELS)
    with pytest.raises(DataError, match=r"judged\[1\]: emotion 'glee' is not one of anger, joy"):
        emotion_f1(["joy", "joy"], ["joy", "glee"], LABELS)
    with pytest.raises(DataError, match="no values"):
        bootstrap_interval(np.array([]), seed=0)
