"""A judge without training: VADER's lexicon and rules, for English and for polarity alone.

It shares no data with any guide or judge, which is its use: a generator that has learnt to please a judge should also move a
list of words that neither has seen. It cannot tell anger from fear, knows no irony, and finds an emotion only where a word of
its list stands, so that much that people call joy or sadness counts as neutral here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from emogen.emotions.labels import EKMAN
from emogen.errors import SettingsError, UndefinedScoreError
from emogen.evaluate.emotion import Judge, judged_labels
from emogen.evaluate.metric import Metric
from emogen.evaluate.resampling import SumStatistic, mean_tally
from emogen.evaluate.score import require_pairs, signature
from emogen.text.words import language_of, unspaced_script

POLARITIES = ("negative", "neutral", "positive")

EKMAN_POLARITY: Mapping[str, str | None] = {
    "anger": "negative",
    "disgust": "negative",
    "fear": "negative",
    "joy": "positive",
    "neutral": "neutral",
    "sadness": "negative",
    "surprise": None,
}
"""Polarity of Ekman's six and neutral; a surprise may be of either kind."""

_THRESHOLD = 0.05


def vader() -> Judge:
    """Return a callable from texts to [texts, 3] over `POLARITIES`: 1 at VADER's polarity of the text, 0 elsewhere.

    VADER gives no probabilities (its `pos`, `neu` and `neg` are shares of the words), so a row is 1 or 0: its authors' rule,
    positive from a compound score of 0.05 and negative from -0.05. A calibration error of it means nothing. A blank text
    is neutral, and so is one in another language.

    Raises:
        SettingsError: if the package is not installed.

    Source: Hutto & Gilbert 2014, VADER: A parsimonious rule-based model for sentiment analysis of social media text.
    """
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError:
        raise SettingsError('the lexicon needs the package vaderSentiment: pip install -e ".[lexicon]"') from None
    analyzer = SentimentIntensityAnalyzer()

    def judge(texts: Sequence[str]) -> NDArray[np.float64]:
        compound = np.array([analyzer.polarity_scores(text)["compound"] for text in texts])
        places = 1 + (compound >= _THRESHOLD) - (compound <= -_THRESHOLD)
        rows: NDArray[np.float64] = np.eye(len(POLARITIES))[places]
        return rows

    return judge


def polarity(label: str) -> str | None:
    """Polarity of an Ekman label, or of a name that means one (`LabelSet.find`); None for surprise and its kin.

    >>> polarity("gratitude"), polarity("grief"), polarity("curiosity")
    ('positive', 'negative', None)

    Raises:
        UndefinedScoreError: any other label.
    """
    family = EKMAN.find(label)
    if family is None:
        raise UndefinedScoreError(f"emotion {label!r} has no known polarity; map it to one of {', '.join(EKMAN_POLARITY)}")
    return EKMAN_POLARITY[family]


@Metric
def polarity_agreement(labels: Sequence[str], texts: Sequence[str]) -> SumStatistic:
    """Return the share of texts in which VADER finds the polarity of their label, over the texts whose label has one.

    A high share says that the words are of the right kind, not that the emotion is right; a low one may be VADER's failing:
    read it beside the same share of texts by people. It tends to fall with the share of texts that express an emotion
    without naming it.

    Args:
        labels: asked for or judged, one for each text; those without a polarity (surprise) are left out with their text.
        texts: English.

    Returns:
        From 0 to 1; the signature says how many texts had a polarity and how many not.

    Raises:
        DataError: if the lists differ in length.
        UndefinedScoreError: if a label has no known polarity, none is left, or the texts are Chinese.
        SettingsError: if the package is not installed.
    """
    require_pairs(labels, texts, ("labels", "texts"))
    if language_of(texts) == "zh":
        raise UndefinedScoreError("the texts are Chinese and the lexicon is English: it would find every text neutral")
    if script := unspaced_script(texts):
        raise UndefinedScoreError(f"the texts are in {script} and the lexicon is English: it would find every text neutral")
    wanted = [polarity(label) for label in labels]
    kept = [place for place, found in enumerate(wanted) if found is not None]
    if not kept:
        raise UndefinedScoreError(f"no label has a polarity, all are {', '.join(sorted(set(labels)))}: pass others too")
    judged = judged_labels(vader()([texts[place] for place in kept]), POLARITIES)
    hits = (float(wanted[place] == found) for place, found in zip(kept, judged, strict=True))
    fields = {"lexicon": "vader", "threshold": _THRESHOLD, "texts": len(kept), "left_out": len(texts) - len(kept)}
    return mean_tally(hits, signature("polarity_agreement", fields))
