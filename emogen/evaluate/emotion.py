"""Agreement of the emotion asked for with the emotion a judge finds."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from emogen.errors import DataError
from emogen.evaluate.score import (
    RESAMPLES,
    Score,
    bootstrap_interval,
    bootstrap_sums,
    percentile_interval,
    require_pairs,
    signature,
)


def emotion_accuracy(asked: Sequence[str], judged: Sequence[str], seed: int = 0) -> Score:
    """Share of texts whose judged emotion is the one asked for, with a bootstrap interval.

    Args:
        asked: the label each text was to express.
        judged: the label the judge gave it.
        seed: of the bootstrap.

    Returns:
        From 0 to 1.

    Raises:
        DataError: if the lists differ in length or are empty.
    """
    require_pairs(asked, judged, ("asked labels", "judged labels"))
    hits = np.array([wanted == found for wanted, found in zip(asked, judged, strict=True)], dtype=np.float64)
    low, high = bootstrap_interval(hits, seed)
    fields = {"texts": len(asked), "bs": RESAMPLES, "seed": seed}
    return Score(float(hits.mean()), low, high, signature("emotion_accuracy", fields))


def emotion_f1(asked: Sequence[str], judged: Sequence[str], labels: Sequence[str], seed: int = 0) -> Score:
    """Mean over the labels of F1 = 2 hits / (asked + judged), with a bootstrap interval.

    A label neither asked for nor judged, in the data or in one resample, has no F1 and is left out of the mean.

    Args:
        asked: the label each text was to express.
        judged: the label the judge gave it.
        labels: the labels allowed in both.
        seed: of the bootstrap.

    Returns:
        From 0 to 1.

    Raises:
        DataError: if the lists differ in length, are empty or hold another label.

    Source: the averaged F1 of Opitz & Burst 2019, Macro F1 and Macro F1.
    """
    require_pairs(asked, judged, ("asked labels", "judged labels"))
    wanted, found = _one_hot(asked, labels, "asked"), _one_hot(judged, labels, "judged")
    statistics = np.hstack([wanted * found, wanted + found])
    value = float(_macro_f1(statistics.sum(axis=0)))
    low, high = percentile_interval(_macro_f1(bootstrap_sums(statistics, seed)))
    fields = {"average": "macro", "labels": len(labels), "texts": len(asked), "bs": RESAMPLES, "seed": seed}
    return Score(value, low, high, signature("emotion_f1", fields))


def _one_hot(given: Sequence[str], labels: Sequence[str], name: str) -> NDArray[np.int64]:
    """[texts, labels], 1 where the text has the label."""
    place = {label: number for number, label in enumerate(labels)}
    for number, label in enumerate(given):
        if label not in place:
            raise DataError(f"{name}[{number}]: emotion {label!r} is not one of {', '.join(labels)}")
    return np.eye(len(labels), dtype=np.int64)[[place[label] for label in given]]


def _macro_f1(sums: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean F1 from [..., 2 * labels] sums: the hits, then asked plus judged."""
    hits, either = np.split(sums, 2, axis=-1)
    measures = 2 * hits / np.maximum(1, either)
    mean: NDArray[np.float64] = measures.sum(axis=-1) / np.count_nonzero(either, axis=-1)
    return mean
