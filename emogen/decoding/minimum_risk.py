"""Minimum Bayes risk: of several texts for one prompt, the one that is most like what else would have been written.

A text's expected utility is its mean likeness to texts drawn from the same model, which stand in for the unknown reference:
Kumar & Byrne 2004; Eikema & Aziz 2022. The likeness here is of word n-grams, so that thousands of pairs take milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from emogen.text.words import words

ORDER = 4


def least_risk(texts: Sequence[str]) -> int:
    """Return the place of the text with the highest expected utility, all texts being its references; of equals the first.

    >>> least_risk(["So sorry to hear it!", "I am sorry to hear that.", "I am happy to hear that."])
    1
    """
    return int(expected_utilities(texts, texts).argmax())


def expected_utilities(
    candidates: Sequence[str], references: Sequence[str], weights: Sequence[float] | None = None, order: int = ORDER
) -> NDArray[np.float64]:
    """Return the mean utility of each candidate, [candidates], 0 to 1.

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
    """Return how alike texts are, [candidates, references], 0 to 1.

    The F1 of the n-grams of their words (Chinese: characters), `2 shared / (those of one + those of the other)`, mean over the
    orders 1 to `order`; an order that both are too short for counts as 0. It is chrF of words in place of characters, with
    beta 1 (Popović 2015).
    """
    ours, theirs = [words(text) for text in candidates], [words(text) for text in references]
    found = np.zeros((len(ours), len(theirs)))
    for n in range(1, order + 1):
        positions = {gram: place for place, gram in enumerate({gram for text in ours for gram in _grams(text, n)})}
        shared = _sum_shared(_counts(ours, n, positions), _counts(theirs, n, positions))
        found += 2 * shared / np.maximum(_numbers(ours, n)[:, None] + _numbers(theirs, n), 1)
    return found / order


def _grams(text: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """Return the n-grams of a text's words."""
    return [tuple(text[at : at + n]) for at in range(len(text) - n + 1)]


def _numbers(texts: Sequence[Sequence[str]], n: int) -> NDArray[np.float64]:
    """Return how many n-grams each text has, [texts]."""
    return np.array([max(0, len(text) - n + 1) for text in texts], float)


def _counts(texts: Sequence[Sequence[str]], n: int, positions: Mapping[tuple[str, ...], int]) -> NDArray[np.float32]:
    """Return how often each text holds each n-gram that has a place, [texts, places]."""
    found = np.zeros((len(texts), len(positions)), np.float32)
    for row, text in enumerate(texts):
        for gram in _grams(text, n):
            if (place := positions.get(gram)) is not None:
                found[row, place] += 1
    return found


def _sum_shared(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return sums over the n-grams of the smaller of two counts, [ours, theirs].

    One product of 0 and 1 for each height of a count.
    """
    highest = int(min(ours.max(initial=0), theirs.max(initial=0)))
    found = np.zeros((len(ours), len(theirs)), np.float32)
    for height in range(1, highest + 1):
        found += (ours >= height).astype(np.float32) @ (theirs >= height).astype(np.float32).T
    return found
