"""Spellings of emotion names, words for the same emotion, and the words none and auto."""

from __future__ import annotations

import tomllib
from collections import Counter
from importlib.resources import files

import pytest

from emogen.emotions.labels import (
    EKMAN,
    EMPATHETIC,
    GOEMOTIONS,
    TO_EKMAN,
    LabelSet,
    is_word,
    mixture,
    no_emotion,
    parse_emotion,
)
from emogen.emotions.names import AUTO, NONE, find_synonyms, fold_name, is_name, normalize_name, read_words
from emogen.errors import SettingsError

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
SCOTLAND = "\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f"


@pytest.mark.parametrize(
    "name",
    [
        *("joy", "生气", "dégoût", "de\u0301gou\u0302t", "sehr froh", "self-love", "no_emotion"),
        *("می\u200cخندم", "क्\u200dष", FAMILY, SCOTLAND, "❤️", "🙂"),
    ],
)
def test_letters_of_any_script_and_emoji_are_names(name: str) -> None:
    assert is_name(name)
    assert LabelSet((name, "other")).position(name) == 0


@pytest.mark.parametrize(
    "name",
    [
        *("", " joy", "joy ", "joy\u00a0", "a,b", "a=b", "a|b"),
        *("a\nb", "a\tb", "a\x07b", "a\x1b[31mb", "a\x85b", "a\u2028b", "a\u2029b", "\ud800"),
        *("a\u200bb", "a\u202eb", "a\u2066b", "\ufeffjoy", "so\u00adft", "\u200djoy", "joy\u200c", "\u200d"),
    ],
)
def test_what_breaks_lines_or_mixtures_or_is_not_seen_is_no_name(name: str) -> None:
    assert not is_name(name)
    with pytest.raises(SettingsError, match="emotion name"):
        LabelSet((name, "other"))


def test_names_are_stored_composed() -> None:
    # U+0065 U+0301 and U+00E9 are canonically equivalent (Unicode Standard Annex 15).
    assert normalize_name("e\u0301te\u0301 ") == "\u00e9t\u00e9"
    labels = LabelSet(("\u00e9nerv\u00e9", "calme"))
    assert labels.find_spelling("E\u0301nerve\u0301") == "\u00e9nerv\u00e9"


@pytest.mark.parametrize(
    ("spellings", "folded"),
    [
        (("Angst", "ANGST", " angst ", "ＡＮＧＳＴ"), "angst"),
        (("No_Emotion", "no-emotion", "NO  EMOTION"), "no emotion"),
        # Full case folding: sharp s and its capital are two s; final and other sigma are one letter.
        (("Spaß", "SPASS", "SPAẞ"), "spass"),
        (("λύπης", "ΛΎΠΗΣ"), "λύπησ"),
        (("_",), "_"),
    ],
)
def test_spellings_of_one_name_fold_to_one(spellings: tuple[str, ...], folded: str) -> None:
    assert {fold_name(name) for name in spellings} == {folded}


@pytest.mark.parametrize(
    ("word", "ekman", "goemotions", "empathetic"),
    [
        ("Happy", "joy", "joy", "joyful"),
        ("开心", "joy", "joy", "joyful"),
        ("SAD", "sadness", "sadness", "sad"),
        ("难过", "sadness", "sadness", "sad"),
        ("Angry", "anger", "anger", "angry"),
        ("生气", "anger", "anger", "angry"),
        ("rage", "anger", "anger", "furious"),
        ("scared", "fear", "fear", "afraid"),
        ("害怕", "fear", "fear", "afraid"),
        ("gross", None, None, None),
        ("disgusting", "disgust", "disgust", "disgusted"),
        ("恶心", "disgust", "disgust", "disgusted"),
        ("Amazed", "surprise", "surprise", "surprised"),
        ("惊讶", "surprise", "surprise", "surprised"),
        ("no emotion", "neutral", "neutral", None),
        ("thankful", "joy", "gratitude", "grateful"),
        ("感激", "joy", "gratitude", "grateful"),
        ("worried", "fear", "nervousness", "anxious"),
        ("regret", "sadness", "remorse", "guilty"),
        ("lonely", "sadness", "sadness", "lonely"),
        ("失望", "sadness", "disappointment", "disappointed"),
        ("hapiness", None, None, None),
        ("joy stick", None, None, None),
    ],
)
def test_words_lead_to_labels_of_the_set_in_use(
    word: str, ekman: str | None, goemotions: str | None, empathetic: str | None
) -> None:
    assert [labels.find(word) for labels in (EKMAN, GOEMOTIONS, EMPATHETIC)] == [ekman, goemotions, empathetic]


@pytest.mark.parametrize("labels", [EKMAN, GOEMOTIONS, EMPATHETIC])
def test_every_label_is_in_the_table_once_and_means_itself(labels: LabelSet) -> None:
    assert [labels.find(name.upper()) for name in labels.names] == list(labels.names)
    meanings = [next(find_synonyms(name)) for name in labels.names]
    assert len(set(meanings)) == len(labels)


def test_the_table_has_every_word_once_and_agrees_with_the_families() -> None:
    table = tomllib.loads(files("emogen").joinpath("synonyms.toml").read_text(encoding="utf-8"))
    words = [fold_name(word) for entry in table.values() for word in entry["words"].split(",")]
    assert [word for word, count in Counter(words).items() if count > 1] == []
    assert all(near in table for entry in table.values() for near in entry.get("near", ()))
    for word in words:
        own, *nearly = find_synonyms(word)
        assert word in own
        assert all(nearly)
        assert len({TO_EKMAN.get(other, other) for other in own if other in TO_EKMAN or other in EKMAN}) <= 1
    assert not {NONE, AUTO} & set(words)


def test_words_written_in_chinese_characters_are_as_many_as_the_meanings() -> None:
    han = [word for word in read_words() if all("\u4e00" <= letter <= "\u9fff" for letter in word)]
    for name in {*EKMAN.names, *GOEMOTIONS.names, *EMPATHETIC.names}:
        assert set(next(find_synonyms(name))) & set(han), name


def test_a_label_set_of_ones_own_keeps_its_names() -> None:
    labels = LabelSet(("Happy", "lonely", "wistful"))
    assert [labels.find(word) for word in ("happy", "joy", "开心", "nostalgia", "grateful")] == [
        *("Happy", "Happy", "Happy", "wistful", None),
    ]


def test_a_word_for_two_labels_means_neither() -> None:
    labels = LabelSet(("joy", "happiness", "Sad", "SAD"))
    assert [labels.find(word) for word in ("Joy", "glad", "sad", "SAD", "sorrow")] == ["joy", None, None, "SAD", None]


@pytest.mark.parametrize(
    ("text", "shares"),
    [
        ("Happy", {"joy": 1.0}),
        ("开心=0.7，惊讶＝0.3", {"joy": 0.7, "surprise": 0.3}),
        ("JOY=0.5, happy=0.25,anger=0.25", {"joy": 0.75, "anger": 0.25}),
    ],
)
def test_mixtures_in_other_words(text: str, shares: dict[str, float]) -> None:
    assert parse_emotion(text, EKMAN, 0.5).weights == pytest.approx(mixture(shares, EKMAN).weights)


@pytest.mark.parametrize(
    ("name", "ending"),
    [
        ("hapiness", "surprise (did you mean happiness, read as joy?)"),
        ("sadnes", "surprise (did you mean sadness?)"),
        ("hunger", "surprise"),
        ("饿", "surprise"),
    ],
)
def test_what_may_have_been_meant_is_said_and_never_taken(name: str, ending: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_emotion(name, EKMAN)
    assert str(caught.value).endswith(ending)


def test_a_label_goes_before_the_words_none_and_auto() -> None:
    assert parse_emotion("None", EKMAN, 0.5) == no_emotion(EKMAN)
    assert is_word(" AUTO ", AUTO, EKMAN)
    labels = LabelSet(("Auto", "none", "warm"))
    assert parse_emotion("none", labels, 0.5) == mixture({"none": 1.0}, labels, 0.5)
    assert not is_word("auto", AUTO, labels)
    # A share of nothing is no emotion: the strength says that.
    with pytest.raises(SettingsError, match="'none' is not one of"):
        parse_emotion("none=0.5,joy=0.5", EKMAN)
