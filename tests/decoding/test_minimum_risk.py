"""Expected utilities: equal to sacrebleu's chrF of texts whose characters stand for words."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sacrebleu.metrics import CHRF

from emogen.decoding.minimum_risk import expected_utilities, least_risk, utilities
from emogen.text.words import words

TEXTS = st.lists(st.text("abc 。我", max_size=12), min_size=1, max_size=5)


def chrf(candidate, reference, order=4):
    """The same by sacrebleu, whose smoothing counts an order that a text is too short for as nearly nothing."""
    names = {word: chr(0x4E00 + place) for place, word in enumerate(dict.fromkeys(words(candidate) + words(reference)))}
    ours, theirs = ("".join(names[word] for word in words(text)) for text in (candidate, reference))
    return CHRF(char_order=order, word_order=0, beta=1, eps_smoothing=True).sentence_score(ours, [theirs]).score / 100


@given(TEXTS, TEXTS, st.integers(1, 4))
def test_as_sacrebleu_computes_it(candidates, references, order):
    found = utilities(candidates, references, order)
    expected = [[chrf(ours, theirs, order) for theirs in references] for ours in candidates]
    assert found == pytest.approx(np.array(expected), abs=1e-9)


def test_by_hand():
    """Words 2 of 3 and 4, pairs 1 of 2 and 3, triples none of 1 and 2, no four of 0 and 1."""
    assert utilities(["the dog ran"], ["then the dog sat"]) == pytest.approx((4 / 7 + 2 / 5 + 0 + 0) / 4)


def test_counts_are_clipped():
    """Three of a word share two with two of it; in Chinese every character is a word."""
    assert utilities(["a a a"], ["a a"], order=1) == pytest.approx(2 * 2 / 5)
    assert utilities(["好好好"], ["好好"], order=1) == pytest.approx(2 * 2 / 5)


def test_case_and_marks():
    """Case does not count; marks do."""
    assert utilities(["A dog ."], ["a DOG."], order=2) == pytest.approx(1.0)
    assert utilities(["a dog"], ["a dog."], order=1) == pytest.approx(4 / 5)


@given(TEXTS)
def test_alike_both_ways(texts):
    found = utilities(texts, texts)
    assert found == pytest.approx(found.T)
    assert ((found >= 0) & (found <= 1 + 1e-12)).all()


def test_blank_texts_are_like_nothing():
    assert utilities(["", "a"], ["", "a"], order=1).tolist() == [[0.0, 0.0], [0.0, 1.0]]
    assert least_risk(["", " "]) == 0
    assert least_risk(["", "a"]) == 1


def test_weights_are_shares():
    candidates, references = ["a b", "c d"], ["a b c d", "c d", "c"]
    plain = utilities(candidates, references)
    assert expected_utilities(candidates, references) == pytest.approx(plain.mean(1))
    assert expected_utilities(candidates, references, [3.0, 0.0, 1.0]) == pytest.approx(0.75 * plain[:, 0] + 0.25 * plain[:, 2])


@given(TEXTS)
def test_least_risk_is_the_highest_mean(texts):
    """Of the literal definition; of equals the first."""
    means = [math.fsum(chrf(text, other) for other in texts) / len(texts) for text in texts]
    assert means[least_risk(texts)] == pytest.approx(max(means))
    assert least_risk([*texts, *texts]) < len(texts)
