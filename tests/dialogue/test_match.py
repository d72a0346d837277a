"""The ranking of replies over callables: fits in closed form, order, and what is refused."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emogen.dialogue.match import Aim, Candidate, candidates, emotion_fit, rank
from emogen.emotions.labels import EKMAN, Emotion, LabelSet, no_emotion, parse_emotion
from emogen.errors import DataError, SettingsError

PAIR = LabelSet(("joy", "sadness"))


def choice(*texts):
    return [Candidate(line, text) for line, text in enumerate(texts, 1)]


def by_table(**fits):
    return lambda texts: np.array([fits[text] for text in texts], dtype=float)


def test_fit_is_the_weighted_sum():
    emotion, context = Aim(by_table(a=-1.0, b=-3.0, c=-2.0), 2.0), Aim(by_table(a=0.0, b=5.0, c=1.5), 0.5)
    found = rank(choice("a", "b", "c"), emotion, context, n=3)
    assert [(each.text, each.line, each.fit) for each in found] == [("a", 1, -2.0), ("c", 3, -3.25), ("b", 2, -3.5)]
    assert (found[0].emotion, found[0].context) == (-1.0, 0.0)
    assert json.loads(json.dumps(found[1].as_object())) == {
        "line": 3,
        "text": "c",
        "fit": -3.25,
        "emotion": -2.0,
        "context": 1.5,
    }


def test_one_aim_is_enough_and_none_is_refused():
    found = rank(choice("a", "b"), context=Aim(by_table(a=1.0, b=2.0)), n=1)
    assert [(each.text, each.emotion, each.context) for each in found] == [("b", None, 2.0)]
    with pytest.raises(SettingsError, match="nothing to fit"):
        rank(choice("a"))
    with pytest.raises(SettingsError, match="n 0 is not at least 1"):
        rank(choice("a"), Aim(by_table(a=1.0)), n=0)
    for weight in (-1.0, math.nan, math.inf):
        with pytest.raises(SettingsError, match=r"weight .* is not at least 0"):
            Aim(by_table(), weight)


def test_of_equals_the_first_and_of_none_nothing():
    assert [each.text for each in rank(choice("c", "a", "b"), Aim(by_table(a=1.0, b=1.0, c=1.0)), n=9)] == ["c", "a", "b"]
    assert rank([], Aim(emotion_fit(lambda texts: np.zeros((len(texts), 2)), parse_emotion("joy", PAIR)))) == []


@pytest.mark.parametrize("value", [math.nan, -math.inf, math.inf])
def test_a_fit_that_is_no_number_is_refused_with_its_line(value):
    with pytest.raises(DataError, match=r"line 2: the reply's fit is (nan|-?inf), no finite number"):
        rank(choice("a", "b"), Aim(by_table(a=1.0, b=value)))
    with pytest.raises(DataError, match=r"values of shape \(1,\) for 2 replies"):
        rank(choice("a", "b"), Aim(lambda texts: np.zeros(1)))


def test_candidates_are_texts_that_say_something_each_once():
    assert candidates([(1, " so  it\tis "), (2, " \n"), (3, "no"), (4, "so it is"), (5, "")]) == [
        Candidate(1, "so it is"),
        Candidate(3, "no"),
    ]
    for rows in ([], [(1, ""), (2, "\t")]):
        with pytest.raises(DataError, match="no reply to choose from"):
            candidates(rows)


def fixed(*rows):
    """Probabilities that do not look at the texts."""
    return lambda texts: np.array(rows[: len(texts)])


def test_emotion_fit_is_the_log_probability_of_the_mixture():
    fit = emotion_fit(fixed([0.9, 0.1], [0.0, 1.0]), parse_emotion("joy=0.75,sadness=0.25", PAIR))
    assert fit(["a", "b"]) == pytest.approx([0.75 * math.log(0.9) + 0.25 * math.log(0.1), 0.75 * math.log(1e-6)])
    assert emotion_fit(fixed([0.9, 0.1]), parse_emotion("joy", PAIR, 0.5))(["a"]) == pytest.approx([0.5 * math.log(0.9)])
    assert emotion_fit(fixed([0.0, 1.0]), no_emotion(PAIR))(["a"]) == pytest.approx([0])


@given(st.integers(0, 10), st.integers(0, 10))
def test_a_mixture_fits_itself_best(target, other):
    """Gibbs' inequality."""
    emotion = Emotion(PAIR, (target / 10, 1 - target / 10))
    own, else_ = emotion_fit(fixed(emotion.weights, (other / 10, 1 - other / 10)), emotion)(["own", "else"])
    assert own >= else_ - 1e-12


@given(st.permutations(range(600)))
def test_thousands_are_read_in_batches_and_their_order_does_not_matter(order):
    sizes = []

    def probabilities(texts):
        sizes.append(len(texts))
        joy = np.array([int(text) / 1000 for text in texts])
        return np.stack([joy, 1 - joy], 1)

    found = rank(choice(*map(str, order)), Aim(emotion_fit(probabilities, parse_emotion("joy", PAIR))), n=2)
    assert [each.text for each in found] == ["599", "598"]
    assert sizes == [256, 256, 88]


def test_of_a_very_long_text_the_beginning_is_read():
    read = []

    def probabilities(texts):
        read.extend(texts)
        return np.full((len(texts), len(EKMAN)), 1 / 7)

    found = rank(choice("a" * 1_000_000), Aim(emotion_fit(probabilities, parse_emotion("joy", EKMAN))))
    assert [len(text) for text in read] == [4096]
    assert len(found[0].text) == 1_000_000
