"""Label sets, mixtures, parsing and mappings."""

from __future__ import annotations

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
    blend,
    map_names,
    mixture,
    named_label_set,
    no_emotion,
    parse_emotion,
    parse_shares,
)
from emogen.errors import SettingsError

# Demszky et al. 2020 (GoEmotions), the authors' ekman_mapping.json.
GOEMOTIONS_AUTHORS = {
    "anger": {"anger", "annoyance", "disapproval"},
    "disgust": {"disgust"},
    "fear": {"fear", "nervousness"},
    "joy": {
        *("joy", "amusement", "approval", "excitement", "gratitude", "love", "optimism", "relief", "pride"),
        *("admiration", "desire", "caring"),
    },
    "sadness": {"sadness", "disappointment", "embarrassment", "grief", "remorse"},
    "surprise": {"surprise", "realization", "confusion", "curiosity"},
}

label_sets = st.lists(
    st.text(st.characters(codec="utf-8", categories=("L", "N")), min_size=1, max_size=8), min_size=1, max_size=9, unique=True
).map(lambda names: LabelSet(tuple(names)))


@st.composite
def emotions(draw: st.DrawFn) -> Emotion:
    """Any mixture over any label set."""
    labels = draw(label_sets)
    parts = draw(st.lists(st.integers(0, 1000), min_size=len(labels), max_size=len(labels)).filter(any))
    weights = tuple(part / sum(parts) for part in parts)
    return Emotion(labels, weights, draw(st.floats(0, 1)))


def test_label_sets_have_their_published_sizes() -> None:
    assert [len(LABEL_SETS[name]) for name in ("ekman", "goemotions", "empathetic")] == [7, 28, 32]
    assert "remorse" in GOEMOTIONS
    assert "remorse" not in EMPATHETIC


def test_goemotions_maps_to_ekman_as_its_authors_say() -> None:
    families: dict[str, set[str]] = {}
    for name in GOEMOTIONS.names:
        families.setdefault(map_names([name], TO_EKMAN, EKMAN)[0], set()).add(name)
    assert families == {**GOEMOTIONS_AUTHORS, "neutral": {"neutral"}}


def test_every_empathetic_label_has_an_ekman_family() -> None:
    assert len(map_names(EMPATHETIC.names, TO_EKMAN, EKMAN)) == 32


@pytest.mark.parametrize(
    ("names", "families"),
    [
        ("anger fear joy love sadness surprise", "anger fear joy joy sadness surprise"),
        ("anger joy optimism sadness", "anger joy joy sadness"),
        ("angry fear happy neutral sad surprise", "anger fear joy neutral sadness surprise"),
        (
            "anger caring confusion disgust joy neutral sadness surprise",
            "anger joy surprise disgust joy neutral sadness surprise",
        ),
        (
            "anger anxiety depression disgust fear guilt jealousy nervousness pain sadness shame",
            "anger fear sadness disgust fear sadness anger fear sadness sadness sadness",
        ),
        ("anger disgust fear happiness neutral sadness surprise", "anger disgust fear joy neutral sadness surprise"),
        ("negative positive", ""),
    ],
    ids=["dair_emotion", "tweeteval_emotion", "smp2020_ewect", "zh_multi_emotion", "esconv", "dailydialog", "mr"],
)
def test_native_names_of_the_corpora_have_their_ekman_families(names: str, families: str) -> None:
    assert map_names(names.split(), TO_EKMAN, EKMAN) == families.split()


@pytest.mark.parametrize("names", [(), ("joy", "joy"), ("",), (" joy",), ("a,b",), ("a=b",), ("a|b",), ("\ud800",)])
def test_label_set_refuses_names_that_cannot_be_told_apart(names: tuple[str, ...]) -> None:
    with pytest.raises(SettingsError):
        LabelSet(names)


@given(label_sets)
def test_position_is_the_place_in_names(labels: LabelSet) -> None:
    assert [labels.position(name) for name in labels.names] == list(range(len(labels)))


def test_unknown_name_is_told_with_the_allowed_ones() -> None:
    with pytest.raises(SettingsError, match="'hunger' is not one of anger, disgust, fear, joy, neutral, sadness, surprise"):
        EKMAN.position("hunger")


@given(emotions())
def test_condition_sums_to_one(emotion: Emotion) -> None:
    assert math.fsum(emotion.condition) == pytest.approx(1.0)
    assert len(emotion.condition) == len(emotion.labels) + 1


@given(emotions())
def test_text_of_an_emotion_parses_back(emotion: Emotion) -> None:
    again = parse_emotion(str(emotion), emotion.labels, emotion.strength)
    assert again.weights == pytest.approx(emotion.weights, abs=1e-5)
    assert again.strength == emotion.strength


@given(emotions())
def test_name_is_a_heaviest_label(emotion: Emotion) -> None:
    assert emotion.weights[emotion.labels.position(emotion.name)] == max(emotion.weights)


@given(label_sets, st.data())
def test_blend_is_even_and_does_not_depend_on_order(labels: LabelSet, data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from(labels.names), min_size=1, unique=True))
    emotion = blend(names, labels)
    assert {weight for weight in emotion.weights if weight} == {1 / len(names)}
    assert blend(names[::-1], labels) == emotion


def test_strength_zero_asks_for_nothing() -> None:
    assert no_emotion(EKMAN).condition == (0.0,) * 7 + (1.0,)
    assert mixture({"joy": 1.0}, EKMAN, 0.25).condition == (0, 0, 0, 0.25, 0, 0, 0, 0.75)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hunger", "'hunger' is not one of anger"),
        ("joy=0.7,hunger=0.3", "'hunger' is not one of anger"),
        ("joy=0.7,fear", "'' is not a number"),
        ("joy=much", "'much' is not a number"),
        ("joy=0.5,fear=0.2", "sum to 0.7, not to 1"),
        ("joy=1.5,fear=-0.5", "between 0 and 1"),
        ("joy=nan", "between 0 and 1"),
        ("joy=0.5,joy=0.5", "names 'joy' twice"),
    ],
)
def test_bad_emotion_text_is_refused(text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parse_emotion(text, EKMAN)


@pytest.mark.parametrize("strength", [-0.1, 1.1, math.nan])
def test_strength_outside_zero_to_one_is_refused(strength: float) -> None:
    with pytest.raises(SettingsError, match="strength"):
        parse_emotion("joy", EKMAN, strength)


def test_weights_must_match_the_labels() -> None:
    with pytest.raises(SettingsError, match="2 weights for 7 labels"):
        Emotion(EKMAN, (0.5, 0.5))


def test_shares_are_read_whatever_the_names() -> None:
    assert parse_shares("heat = 0.25, cold=0.75") == {"heat": 0.25, "cold": 0.75}


def test_label_sets_by_name_or_by_list() -> None:
    assert named_label_set("goemotions") is GOEMOTIONS
    assert named_label_set("warm, cold") == LabelSet(("warm", "cold"))
    with pytest.raises(SettingsError, match="give ekman, goemotions, empathetic, or at least two names"):
        named_label_set("warm")
