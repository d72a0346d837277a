"""The lexicon's polarity against examples of VADER's authors, and the agreement by hand."""

import sys

import numpy as np
import pytest

from emogen.emotions.labels import EKMAN, TO_EKMAN
from emogen.errors import DataError, SettingsError
from emogen.evaluate.emotion import judged_labels
from emogen.evaluate.lexicon import EKMAN_POLARITY, POLARITIES, polarity, polarity_agreement, vader

GLAD, SAD, PLAIN = "What a wonderful, happy day!", "I hate this horrible mess.", "The table stands by the wall."


@pytest.fixture
def lexicon():
    """Skips where the extra is not installed."""
    return pytest.importorskip("vaderSentiment.vaderSentiment")


def test_polarity_by_the_authors_examples(lexicon):
    """Their README has compound scores 0.8316, -0.5461 and -0.7424 for the first three."""
    texts = ["VADER is smart, handsome, and funny.", "Today SUX!", "VADER is not smart, handsome, nor funny.", PLAIN, ""]
    found = vader()(texts)
    assert found.shape == (5, 3)
    assert judged_labels(found, POLARITIES) == ["positive", "negative", "negative", "neutral", "neutral"]
    assert set(np.unique(found)) == {0, 1}


@pytest.mark.parametrize(
    ("compound", "expected"), [(0.05, "positive"), (0.0499, "neutral"), (-0.05, "negative"), (-0.0499, "neutral")]
)
def test_thresholds_belong_to_the_poles(lexicon, monkeypatch, compound, expected):
    """The authors' rule: positive from 0.05, negative from -0.05, both included."""
    monkeypatch.setattr(lexicon.SentimentIntensityAnalyzer, "polarity_scores", lambda self, text: {"compound": compound})
    assert judged_labels(vader()(["x"]), POLARITIES) == [expected]


def test_agreement_by_hand(lexicon):
    """Joy and fear agree, neutral does not, surprise is left out, gratitude counts as joy."""
    labels = ["joy", "fear", "neutral", "surprise", "gratitude"]
    found = polarity_agreement(labels, [GLAD, SAD, GLAD, GLAD, GLAD])
    assert found.value == 3 / 4
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.signature.startswith("polarity_agreement|lexicon:vader|threshold:0.05|texts:4|left_out:1|version:")
    assert polarity_agreement.statistic(["sadness", "joy"], [GLAD, SAD]).value == 0


def test_every_known_label_has_a_polarity_or_none():
    """Those of Ekman's set and all that map to it."""
    assert set(EKMAN_POLARITY) == set(EKMAN.names)
    assert {polarity(label) for label in [*EKMAN.names, *TO_EKMAN]} == {*POLARITIES, None}
    assert [polarity(label) for label in ("surprise", "curiosity", "grief")] == [None, None, "negative"]


def test_mistakes_are_refused(lexicon):
    """Unknown labels, other lengths, nothing left, another language."""
    with pytest.raises(DataError, match="'hunger' has no known polarity; map it to one of anger"):
        polarity_agreement(["hunger"], [GLAD])
    with pytest.raises(DataError, match="1 labels but 2 texts"):
        polarity_agreement(["joy"], [GLAD, GLAD])
    with pytest.raises(DataError, match="no label has a polarity, all are curiosity, surprise"):
        polarity_agreement(["surprise", "curiosity"], [GLAD, GLAD])
    with pytest.raises(DataError, match="the texts are Chinese and the lexicon is English"):
        polarity_agreement(["joy"], ["我很开心"])


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "vaderSentiment", None)
    monkeypatch.setitem(sys.modules, "vaderSentiment.vaderSentiment", None)
    with pytest.raises(SettingsError, match=r'pip install -e "\.\[lexicon\]"'):
        vader()
