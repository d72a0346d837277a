"""Emotions as points: the published figures, distances, mixtures, and the course of a conversation."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emogen.emotions.labels import (
    EKMAN,
    EMPATHETIC,
    GOEMOTIONS,
    LABEL_SETS,
    TO_EKMAN,
    Emotion,
    LabelSet,
    no_emotion,
    parse_emotion,
)
from emogen.emotions.space import (
    ESTIMATED,
    ORIGIN,
    POINTS,
    TERMS,
    Point,
    coordinates,
    distance,
    divergence,
    emotion_of,
    mix,
    nearest,
    point_of,
    trajectory,
)
from emogen.errors import SettingsError

PAIR = LabelSet(("joy", "sadness"))


@st.composite
def emotions(draw, labels=EKMAN):
    parts = draw(st.lists(st.integers(0, 100), min_size=len(labels), max_size=len(labels)).filter(any))
    return Emotion(labels, tuple(part / sum(parts) for part in parts), draw(st.floats(0, 1)))


# Mehrabian 1996, Pleasure-arousal-dominance: a general framework, Current Psychology 14, gives these two again; Gebhard 2005
# (ALMA) anger and fear.
@pytest.mark.parametrize(
    ("label", "point"),
    [
        ("anger", (-0.51, 0.59, 0.25)),
        ("curiosity", (0.22, 0.62, -0.01)),
        ("fear", (-0.64, 0.60, -0.43)),
        ("neutral", (0, 0, 0)),
    ],
)
def test_points_are_those_that_are_published(label, point):
    assert tuple(point_of(label)) == point


def test_every_label_has_a_point_measured_or_estimated_from_the_table():
    for name in (name for labels in LABEL_SETS.values() for name in labels.names):
        point = tuple(point_of(name))
        if name in ESTIMATED:
            terms = [tuple(TERMS[term]) for term in ESTIMATED[name]]
            assert point == pytest.approx([math.fsum(column) / len(terms) for column in zip(*terms, strict=True)])
        elif name != "neutral":
            assert point in {tuple(term) for term in TERMS.values()}
    assert set(TO_EKMAN) <= set(POINTS)
    assert len(TERMS) == len(set(TERMS.values()))


def test_pleasant_families_are_pleasant_and_unpleasant_ones_are_not():
    """By the map to Ekman's labels; nostalgia, sentiment and anxiety, which have two sides, lie near 0."""
    for name in (*GOEMOTIONS.names, *EMPATHETIC.names):
        family, valence = TO_EKMAN.get(name, name), point_of(name).valence
        if name in ("nostalgic", "sentimental", "anxious"):
            continue
        if family == "joy":
            assert valence > 0.2, name
        elif family in ("anger", "disgust", "fear", "sadness"):
            assert valence < -0.1, name


def test_the_point_of_a_mixture_is_the_weighted_mean_times_the_strength():
    joy, fear = (point_of(name) for name in ("joy", "fear"))
    found = coordinates(parse_emotion("joy=0.75,fear=0.25", EKMAN, 0.5))
    assert tuple(found) == pytest.approx([0.5 * (0.75 * one + 0.25 * other) for one, other in zip(joy, fear, strict=True)])
    assert coordinates(no_emotion(EKMAN)) == ORIGIN
    assert coordinates(Emotion(LabelSet(("odd",)), (1.0,)), {"odd": Point(1, -1, 0)}) == Point(1, -1, 0)


@given(emotions())
def test_points_stay_inside_the_space(emotion):
    assert all(-1 <= value <= 1 for value in coordinates(emotion))


def test_a_label_without_a_point_and_a_point_outside_are_refused():
    with pytest.raises(SettingsError, match="'odd' has no valence, arousal and dominance; give `points`"):
        coordinates(Emotion(LabelSet(("odd", "joy")), (0.5, 0.5)))
    # What weighs nothing needs no point.
    assert coordinates(Emotion(LabelSet(("odd", "joy")), (0.0, 1.0))) == point_of("joy")
    for values in ((1.1, 0, 0), (0, math.nan, 0)):
        with pytest.raises(SettingsError, match="between -1 and 1"):
            Point(*values)


def test_distance_is_euclidean():
    assert distance(Point(0, 0, 0), Point(1, -1, 1)) == pytest.approx(math.sqrt(3))
    assert distance(Point(0.5, 0, 0), Point(0.2, 0.4, 0)) == pytest.approx(0.5)


def test_divergence_in_closed_form():
    """Of (1, 0) and (1/2, 1/2): the entropy of their mean (3/4, 1/4) less the mean of their entropies, 0 and 1 bit."""
    joy, sadness, half = (parse_emotion(text, PAIR) for text in ("joy", "sadness", "joy=0.5,sadness=0.5"))
    assert divergence(joy, half) == pytest.approx(-0.75 * math.log2(0.75) - 0.25 * math.log2(0.25) - 0.5)
    assert divergence(joy, sadness) == 1
    assert divergence(joy, no_emotion(PAIR)) == 1
    assert divergence(no_emotion(PAIR), Emotion(PAIR, (1.0, 0.0), 0.0)) == 0
    with pytest.raises(SettingsError, match="is over joy, sadness, not over anger"):
        divergence(parse_emotion("joy", EKMAN), joy)


@given(emotions(), emotions(), emotions())
def test_divergence_is_the_square_of_a_metric(one, other, third):
    """Endres & Schindelin 2003."""
    assert 0 <= divergence(one, other) <= 1
    assert divergence(one, other) == pytest.approx(divergence(other, one))
    assert divergence(one, one) == pytest.approx(0, abs=1e-12)
    legs = math.sqrt(divergence(one, other)) + math.sqrt(divergence(other, third))
    assert math.sqrt(divergence(one, third)) <= legs + 1e-6


@given(emotions(), emotions(), st.floats(0.01, 1))
def test_a_mixture_lies_between_its_parts(one, other, share):
    found = coordinates(mix([one, other], [share, 1 - share]))
    both = zip(coordinates(one), coordinates(other), strict=True)
    assert tuple(found) == pytest.approx([share * left + (1 - share) * right for left, right in both], abs=1e-9)


@given(emotions())
def test_an_emotion_comes_back_from_its_condition(emotion):
    assert emotion_of(emotion.condition, EKMAN).condition == pytest.approx(emotion.condition)


def test_mixtures_that_are_none_are_refused():
    joy = parse_emotion("joy", PAIR)
    for weights in ([1.0], [-1.0, 2.0], [0.0, 0.0], [math.nan, 1.0], [math.inf, 1.0]):
        with pytest.raises(SettingsError, match=r"weights .* for 2 emotions"):
            mix([joy, joy], weights)
    with pytest.raises(SettingsError, match="no emotions to mix"):
        mix([])
    with pytest.raises(SettingsError, match="not over joy, sadness"):
        mix([joy, parse_emotion("joy", EKMAN)])
    for shares in ([0.0, 0.0, 0.0], [-0.1, 0.5, 0.6], [math.nan, 1.0, 0.0]):
        with pytest.raises(SettingsError, match="are no distribution"):
            emotion_of(shares, PAIR)
    with pytest.raises(SettingsError, match="2 shares for 2 labels and no emotion"):
        emotion_of([0.5, 0.5], PAIR)


def test_the_nearest_label_of_a_labels_point_is_the_label():
    for name in EKMAN.names:
        assert nearest(point_of(name), EKMAN) == name
    assert nearest(Point(0.9, 0.9, 0.9), EKMAN) == "joy"
    # Both stand at the same place: the first.
    assert nearest(point_of("annoyed"), LabelSet(("annoyance", "annoyed"))) == "annoyance"


def valences(*values):
    """A course that moves in valence alone."""
    labels = LabelSet(("down", "up"))
    points = {"down": Point(-1, 0, 0), "up": Point(1, 0, 0)}
    return trajectory([Emotion(labels, ((1 - value) / 2, (1 + value) / 2)) for value in values], points)


def test_a_course_in_closed_form():
    found = valences(0.0, 0.5, -0.5, -0.2).summary()
    assert found.turns == 4
    assert (tuple(found.start), tuple(found.end)) == (pytest.approx((0, 0, 0)), pytest.approx((-0.2, 0, 0)))
    assert found.drift == pytest.approx((-0.2, 0, 0))
    assert found.length == pytest.approx(1.8)
    assert found.volatility == pytest.approx(math.sqrt((0.25 + 1 + 0.09) / 3))
    assert found.turning == (2, 3)


@pytest.mark.parametrize(
    ("values", "turning"),
    [
        ((0.1,), ()),
        ((0.0, 0.3, 0.6, 0.9), ()),
        ((0.0, 0.1, 0.0, 0.1), ()),
        ((0.5, 0.45, 0.0, 0.05, -0.1, 0.4), (5,)),
        ((0.0, 0.5, 0.4, 0.6, 0.1, 0.1, 0.5), (4, 5)),
        ((0.1, 0.0, 0.25, 0.0), (3,)),
    ],
)
def test_turning_points_are_extremes_between_a_rise_and_a_fall(values, turning):
    assert valences(*values).summary().turning == turning


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=12))
def test_a_course_and_its_mirror_image_turn_at_the_same_places(values):
    assert valences(*values).summary().turning == valences(*(-value for value in values)).summary().turning


def test_one_turn_has_no_drift_and_none_is_refused():
    found = trajectory([parse_emotion("joy", EKMAN)]).summary()
    assert (found.start, found.drift, found.volatility, found.turning) == (point_of("joy"), (0, 0, 0), 0, ())
    with pytest.raises(SettingsError, match="at least one turn"):
        trajectory([])
    for least in (0.0, -1.0, math.nan):
        with pytest.raises(SettingsError, match="must be above 0"):
            valences(0.0).summary(least)


def test_a_course_as_text_and_as_json():
    found = trajectory([parse_emotion("sadness", EKMAN), no_emotion(EKMAN), parse_emotion("joy", EKMAN)])
    content = json.loads(json.dumps(found.as_object()))
    assert [turn["emotion"] for turn in content["turns"]] == ["sadness", "", "joy"]
    assert content["turns"][0] == {"turn": 1, "emotion": "sadness", "valence": -0.63, "arousal": -0.27, "dominance": -0.33}
    assert content["summary"]["drift"] == {"valence": 1.39, "arousal": 0.75, "dominance": 0.68}
    assert content["summary"]["turning_points"] == []
    header, first, second, _, summary = found.as_text().splitlines()
    assert header.split() == ["turn", "emotion", "valence", "arousal", "dominance"]
    assert first.split() == ["1", "sadness", "-0.63", "-0.27", "-0.33"]
    assert second.split() == ["2", "-", "+0.00", "+0.00", "+0.00"]
    assert summary.startswith("drift +1.39 +0.75 +0.68 (valence, arousal, dominance), volatility ")
