"""Minimum Bayes risk: of several texts for one prompt, the one that is most like what else would have been written.

A text's expected utility is its mean likeness to texts drawn from the same model, which stand in for the unknown reference:
Kumar & Byrne 2004; Eikema & Aziz 2022. The likeness here is of word n-grams, so that thousands of pairs take milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from emogen.words import words

ORDER = 4


def least_risk(texts: Sequence[str]) -> int:
    """The place of the text with the highest expected utility, all texts being its references; of equals the first.

    >>> least_risk(["So sorry to hear it!", "I am sorry to hear that.", "I am happy to hear that."])
    1
    """
    return int(expected_utilities(texts, texts).argmax())


def expected_utilities(
    candidates: Sequence[str], references: Sequence[str], weights: Sequence[float] | None = None, order: int = ORDER
) -> NDArray[np.float64]:
    """The mean utility of each candidate, [candidates], 0 to 1.

    Args:
        candidates: texts.
        references: texts that stand in for the unknown one; at least one.
        weights: of the references, not negative, not all zero; None for equal ones.
        order: as in `utilities`.
    """
    shares = np.ones(len(references)) if weights is None else np.asarray(weights, float)
    found: NDArray[np.float64] = utilities(candidates, references, order) @ (shares / shares.sum())
    return found


def utilities(candidates: Sequence[str], references: Sequence[str], order: int = ORDER) -> NDArray[np.float64]:
    """How alike texts are, [candidates, references], 0 to 1.

    The F1 of the n-grams of their words (Chinese: characters), `2 shared / (those of one + those of the other)`, mean over the
    orders 1 to `order`; an order that both are too short for counts as 0. It is chrF of words in place of characters, with
    beta 1 (Popović 2015).
    """
    texts = [words(text) for text in (*candidates, *references)]
    found = np.zeros((len(candidates), len(references)))
    for n in range(1, order + 1):
        counts = _counts(texts, n)
        ours, theirs = counts[: len(candidates)], counts[len(candidates) :]
        total = ours.sum(1)[:, None] + theirs.sum(1)
        found += 2 * _shared(ours, theirs) / np.maximum(total, 1)
    return found / order


def _counts(texts: Sequence[Sequence[str]], n: int) -> NDArray[np.int64]:
    """How often each text holds each n-gram of any, [texts, n-grams]."""
    places: dict[tuple[str, ...], int] = {}
    grams = [[tuple(text[at : at + n]) for at in range(len(text) - n + 1)] for text in texts]
    rows = [[places.setdefault(gram, len(places)) for gram in row] for row in grams]
    return np.stack([np.bincount(np.array(row, int), minlength=len(places)) for row in rows])


def _shared(ours: NDArray[np.int64], theirs: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sums over the n-grams of the smaller of two counts, [ours, theirs]: one product of 0 and 1 for each height of a count."""
    highest = min(ours.max(initial=0), theirs.max(initial=0))
    found = np.zeros((len(ours), len(theirs)), np.float32)
    for height in range(1, highest + 1):
        found += (ours >= height).astype(np.float32) @ (theirs >= height).astype(np.float32).T
    return found.astype(float)
