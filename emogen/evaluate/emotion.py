"""Agreement of the emotion asked for with the emotion that a judge finds, and how far the judge itself can be trusted.

A judge is its labels and either an array of probabilities [texts, labels] or a callable from texts to such an array.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emogen.errors import DataError
from emogen.evaluate.metric import Metric
from emogen.evaluate.resampling import (
    SumStatistic,
    Values,
    added_up,
    mean_tally,
)
from emogen.evaluate.score import Score, require_items, require_pairs, signature

Judge = Callable[[Sequence[str]], NDArray[Any]]

_SUM_TOLERANCE = 0.01
_BINS = 15


def judged_labels(probabilities: NDArray[Any], labels: Sequence[str]) -> list[str]:
    """Return the likeliest label of each text, the first of them where several are as likely.

    Args:
        probabilities: [texts, labels].
        labels: the judge's.

    Raises:
        DataError: as `checked_probabilities`.
    """
    places = checked_probabilities(probabilities, labels).argmax(axis=1)
    return [labels[place] for place in places.tolist()]


def checked_probabilities(probabilities: NDArray[Any], labels: Sequence[str]) -> Values:
    """Return the same numbers as float64 [texts, labels], once they are known to be probabilities.

    Raises:
        DataError: if there is no text, the columns are not one for each label, a number is not finite or negative, or a
            row's sum is further from 1 than 0.01 (room for 16-bit numbers); rows are counted from 0.
    """
    given = np.asarray(probabilities, dtype=np.float64)
    if given.ndim != 2 or given.shape[1] != len(labels):
        raise DataError(f"probabilities are {list(given.shape)}: pass [texts, {len(labels)}], for {', '.join(labels)}")
    require_items(given, "probabilities")
    wrong = np.argwhere(~np.isfinite(given) | (given < 0))
    if len(wrong):
        row, column = wrong[0].tolist()
        raise DataError(f"probabilities[{row}]: {labels[column]} is {given[row, column]:g}; a probability is 0 to 1")
    totals = given.sum(axis=1)
    rows = np.flatnonzero(np.abs(totals - 1) > _SUM_TOLERANCE)
    if len(rows):
        raise DataError(f"probabilities[{rows[0]}] sum to {totals[rows[0]]:g}, not to 1: pass those of a single-label judge")
    return given


@Metric
def emotion_accuracy(target: Sequence[str], judged: Sequence[str]) -> SumStatistic:
    """Return the share of texts whose judged emotion is the one asked for, with a bootstrap interval.

    A judge that is often wrong lowers it however good the texts are: see `corrected_accuracy`.

    Args:
        target: the label each text was to express.
        judged: the label the judge gave it.

    Returns:
        From 0 to 1.

    Raises:
        DataError: if the lists differ in length or are empty.
    """
    require_pairs(target, judged, ("asked labels", "judged labels"))
    return mean_tally(_hits(target, judged), signature("emotion_accuracy", {"texts": len(target)}))


@Metric
def emotion_f1(target: Sequence[str], judged: Sequence[str], labels: Sequence[str]) -> SumStatistic:
    """Return the mean over the labels of F1 = 2 hits / (asked + judged), with a bootstrap interval.

    A label neither asked for nor judged, in the data or in one resample, has no F1 and is left out of the mean.

    Args:
        target: the label each text was to express.
        judged: the label the judge gave it.
        labels: the labels allowed in both.

    Returns:
        From 0 to 1.

    Raises:
        DataError: if the lists differ in length, are empty or hold another label.

    Source: the averaged F1 of Opitz & Burst 2019, Macro F1 and Macro F1.
    """
    pairs = _placed_pairs(target, judged, labels)
    fields = {"average": "macro", "labels": len(labels), "texts": len(target)}
    return SumStatistic(added_up(_f1_rows(pairs, len(labels))), _f1_of_occurring, signature("emotion_f1", fields))


@Metric
def multilabel_f1(gold: NDArray[Any], found: NDArray[Any], labels: Sequence[str]) -> SumStatistic:
    """Return the mean over all labels of F1 = 2 hits / (gold + found), where a text may have several labels or none.

    A label neither in `gold` nor in `found` has F1 0 and stays in the mean, as in scikit-learn's
    `f1_score(average="macro", zero_division=0)`; so `emotion_f1` treats such labels otherwise. A rare label that falls out
    of a resample counts 0 there, which draws the interval down a little.

    Args:
        gold: [texts, labels], whether the text has the label; booleans, or 0 and 1.
        found: the same shape, whether the judge found it.
        labels: names of the columns.

    Returns:
        From 0 to 1.

    Raises:
        DataError: if the arrays differ in shape, are empty, do not fit the labels or hold other numbers.
    """
    require_pairs(gold, found, ("rows of gold labels", "rows of found labels"))
    wanted, given = _marks(gold, labels, "gold"), _marks(found, labels, "found")
    rows = (np.concatenate([own & other, own + other]) for own, other in zip(wanted, given, strict=True))
    fields = {"average": "macro", "zero_division": 0, "labels": len(labels), "texts": len(wanted)}
    return SumStatistic(added_up(rows), _f1_of_all, signature("multilabel_f1", fields))


@dataclass(frozen=True, eq=False)
class Confusion:
    """How often each label was judged when each was asked for, or was the true one.

    Attributes:
        counts: [asked, judged] int64, texts.
        labels: of rows and columns.
    """

    counts: NDArray[np.int64]
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.counts.shape != (len(self.labels), len(self.labels)):
            raise DataError(
                f"confusion of {len(self.labels)} labels is {list(self.counts.shape)}: pass a row and a column each"
            )
        if (self.counts < 0).any():
            raise DataError(f"confusion holds {self.counts.min():g}: pass numbers of texts")

    @property
    def row_shares(self) -> Values:
        """Return [asked, judged], each row divided by its sum; all 0 in the row of a label that was never asked for."""
        shares: Values = self.counts / np.maximum(1, self.counts.sum(axis=1, keepdims=True))
        return shares


def confusion(target: Sequence[str], judged: Sequence[str], labels: Sequence[str]) -> Confusion:
    """Count of the pairs (asked, judged); with true labels for the asked ones it is the judge's own confusion.

    Raises:
        DataError: if the lists differ in length, are empty or hold a label that is not in `labels`.
    """
    counts = np.zeros((len(labels), len(labels)), dtype=np.int64)
    np.add.at(counts, tuple(_placed_pairs(target, judged, labels).T), 1)
    return Confusion(counts, tuple(labels))


@Metric
def calibration_error(probabilities: NDArray[Any], gold: Sequence[str], labels: Sequence[str]) -> SumStatistic:
    """Return expected calibration error of the likeliest label: mean distance of its probability from how often it is right.

    Texts are binned by that probability, 15 bins of equal width, upper ends included. The estimate is biased upward, since
    a bin's distance is never negative: a perfectly calibrated judge scores above 0, by some sqrt(bins / texts) / 3, and the
    bootstrap adds the like once more. So the interval may lie wholly above the value, and a small error is not shown to be 0
    or more than 0 by it; compare judges on equally many texts.

    Args:
        probabilities: [texts, labels].
        gold: the true label of each text.
        labels: of the columns.

    Returns:
        From 0 to 1.

    Raises:
        DataError: if the lists differ in length, a label is not in `labels`, or as `checked_probabilities`.

    Source: Guo et al. 2017, On calibration of modern neural networks.
    """
    given = checked_probabilities(probabilities, labels)
    require_pairs(given, gold, ("rows of probabilities", "gold labels"))
    confidence = given.max(axis=1)
    gaps = (given.argmax(axis=1) == label_positions(gold, labels, "gold")) - confidence
    inner_edges = np.linspace(0, 1, _BINS + 1)[1:-1]
    bins = np.searchsorted(inner_edges, confidence, side="left")
    rows = (_row(_BINS + 1, {place: gap, _BINS: 1.0}) for place, gap in zip(bins.tolist(), gaps.tolist(), strict=True))
    fields = {"bins": _BINS, "labels": len(labels), "texts": len(given)}
    return SumStatistic(added_up(rows), _mean_distance, signature("calibration_error", fields))


@dataclass(frozen=True)
class Agreement:
    """How far two judges agree.

    Attributes:
        raw: share of texts that both give the same label, from 0 to 1.
        kappa: the same beyond what their label shares alone would give, from -1 to 1.
    """

    raw: Score
    kappa: Score


def agreement(first: Sequence[str], second: Sequence[str], seed: int = 0) -> Agreement:
    """Return raw agreement of two judges and Cohen's kappa, with bootstrap intervals.

    Two judges that agree may share an error; agreement bounds neither's accuracy.

    Args:
        first: the label that one judge gave each text.
        second: the other's, in the same order; a label that only one of them has never agrees.
        seed: of the bootstrap.

    Returns:
        Kappa is 0 where both give one and the same label to every text: nothing beyond chance is shown then.

    Raises:
        DataError: if the lists differ in length or are empty.

    Source: Cohen 1960, A coefficient of agreement for nominal scales.
    """
    return Agreement(agreement_tally(first, second).score(seed), kappa_tally(first, second).score(seed))


def agreement_tally(first: Sequence[str], second: Sequence[str]) -> SumStatistic:
    """Return raw agreement before its interval; a block of sums is hits and texts."""
    require_pairs(first, second, ("labels of the first judge", "labels of the second"))
    return mean_tally(_hits(first, second), signature("agreement", {"texts": len(first)}))


def kappa_tally(first: Sequence[str], second: Sequence[str]) -> SumStatistic:
    """Return Cohen's kappa before its interval; a block of sums is hits, texts, labels of the first judge, of the second."""
    require_pairs(first, second, ("labels of the first judge", "labels of the second"))
    labels = sorted({*first, *second})
    pairs = _placed_pairs(first, second, labels).tolist()
    width = 2 + 2 * len(labels)
    rows = (_row(width, {0: one == other, 1: 1, 2 + one: 1, 2 + len(labels) + other: 1}) for one, other in pairs)
    return SumStatistic(added_up(rows), _kappa, signature("kappa", {"labels": len(labels), "texts": len(first)}))


def _hits(left: Sequence[str], right: Sequence[str]) -> Iterator[float]:
    return (float(wanted == found) for wanted, found in zip(left, right, strict=True))


def _row(width: int, filled: dict[int, float]) -> Values:
    row = np.zeros(width)
    row[list(filled)] = list(filled.values())
    return row


def label_positions(given: Sequence[str], labels: Sequence[str], name: str) -> NDArray[np.int64]:
    """Return [texts], the place of each label among `labels`."""
    place = {label: number for number, label in enumerate(labels)}
    if len(place) < len(labels):
        raise DataError(f"labels hold a name twice: {', '.join(labels)}")
    unknown = [label for label in dict.fromkeys(given) if label not in place]
    if unknown:
        first = list(given).index(unknown[0])
        others = f" (nor {', '.join(map(repr, unknown[1:]))} further down)" if unknown[1:] else ""
        raise DataError(
            f"{name}[{first}]: emotion {unknown[0]!r}{others} is not one of {', '.join(labels)}; rename or leave out"
        )
    return np.array([place[label] for label in given], dtype=np.int64)


def _placed_pairs(target: Sequence[str], judged: Sequence[str], labels: Sequence[str]) -> NDArray[np.int64]:
    """Return [texts, 2], the places of both labels."""
    require_pairs(target, judged, ("asked labels", "judged labels"))
    return np.stack([label_positions(target, labels, "asked"), label_positions(judged, labels, "judged")], axis=1)


def _f1_rows(pairs: NDArray[np.int64], labels: int) -> Iterator[Values]:
    for wanted, found in pairs.tolist():
        row = np.zeros(2 * labels)
        row[wanted] = wanted == found
        row[labels + wanted] += 1
        row[labels + found] += 1
        yield row


def _marks(given: NDArray[Any], labels: Sequence[str], name: str) -> NDArray[np.int64]:
    """Return [texts, labels], 1 where the text has the label and else 0."""
    marks = np.asarray(given)
    if marks.ndim != 2 or marks.shape[1] != len(labels):
        raise DataError(f"{name} is {list(marks.shape)}: pass [texts, {len(labels)}], for {', '.join(labels)}")
    wrong = np.argwhere((marks != 0) & (marks != 1))
    if len(wrong):
        row, column = wrong[0].tolist()
        raise DataError(f"{name}[{row}]: {labels[column]} is {marks[row, column]:g}; pass true or false, or 1 or 0")
    return marks.astype(np.int64)


def _f1_by_label(sums: Values) -> tuple[Values, Values]:
    """Return f1 and hits' denominator [..., labels] from [..., 2 * labels] sums: the hits, then both sides added."""
    hits, either = np.split(sums, 2, axis=-1)
    return 2 * hits / np.maximum(1, either), either


def _f1_of_occurring(sums: Values) -> Values:
    measures, either = _f1_by_label(sums)
    mean: Values = measures.sum(axis=-1) / np.count_nonzero(either, axis=-1)
    return mean


def _f1_of_all(sums: Values) -> Values:
    mean: Values = _f1_by_label(sums)[0].mean(axis=-1)
    return mean


def _mean_distance(sums: Values) -> Values:
    mean: Values = np.abs(sums[..., :-1]).sum(axis=-1) / sums[..., -1]
    return mean


def _kappa(sums: Values) -> Values:
    texts = sums[..., 1]
    first, second = np.split(sums[..., 2:], 2, axis=-1)
    raw = sums[..., 0] / texts
    chance = (first * second).sum(axis=-1) / texts**2
    beyond: Values = np.where(chance < 1, raw - chance, 0.0) / np.where(chance < 1, 1 - chance, 1.0)
    return beyond
