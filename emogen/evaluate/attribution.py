"""Which words carried a label: Shapley values of a judge's answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emogen.errors import DataError, SettingsError
from emogen.evaluate.emotion import Judge, checked_probabilities
from emogen.text.words import word_spans, words

EXACT_WORDS = 6
MOST_TEXTS = 5000

Value = Callable[[Sequence[str]], NDArray[Any]]
Kept = tuple[int, ...]

_LEAST_PROBABILITY = 1e-6


@dataclass(frozen=True)
class Word:
    """A word (or sign) of a text and what it adds to the text's value.

    Attributes:
        text: as it is written.
        start: place of its first character in the whole text.
        end: place behind its last.
        weight: its Shapley value, in units of the value function; positive where it speaks for the label.
    """

    text: str
    start: int
    end: int
    weight: float


@dataclass(frozen=True)
class Attribution:
    """The words of a text with their weights.

    Attributes:
        words: in the text's order; their weights add up to `full` less `nothing`.
        nothing: value of the empty text.
        full: value of the text.
        orders: in how many orders the words were added; 0 if every subset was scored, so that the weights are exact.
    """

    words: tuple[Word, ...]
    nothing: float
    full: float
    orders: int


def shapley_words(text: str, value: Value, draws: int = 64, seed: int = 0, most_texts: int = MOST_TEXTS) -> Attribution:
    """Shapley value of each word: what it adds to the value, in the mean over all orders of adding the words.

    Up to 6 words every subset is scored and the weights are exact. Beyond, random orders are drawn, each with its reverse,
    which is exact where words act alone or in pairs. A word is taken out together with the blank that its removal would
    leave over; words that would grow together keep a blank between them. Blanks around the text are dropped.

    Args:
        text: at least one word; words and signs as `emogen.text.words` has them.
        value: texts -> their values [texts], for example `log_odds` of a label; called once, on texts that all differ and
            one of which is empty.
        draws: orders of the words, an even number; the error falls with its square root.
        seed: of the orders.
        most_texts: most texts to score. One order takes a text a word, so that a text of n words gets fewer orders than
            `draws` once `draws` times n is above it; `Attribution.orders` says how many.

    Returns:
        The words; their weights add up to the value of the text less that of the empty one, for any number of draws.

    Raises:
        DataError: if the text is blank, or `value` returns another shape or a number that is not finite.
        SettingsError: if `draws` is odd or below 2, or `most_texts` is too small for one order and its reverse.

    Source: Strumbelj & Kononenko 2010, An efficient explanation of individual classifications using game theory; Lundberg &
    Lee 2017, A unified approach to interpreting model predictions; Mitchell et al. 2022 for the reverses.
    """
    spans = word_spans(text)
    if not spans:
        raise DataError(f"text {text!r} has no word to weigh: pass at least one")
    if draws < 2 or draws % 2:
        raise SettingsError(f"draws is {draws}: pass an even number of at least 2, since each order comes with its reverse")
    exact = len(spans) <= EXACT_WORDS
    orders = [] if exact else _orders(len(spans), draws, seed, most_texts)
    subsets = _all_subsets(len(spans)) if exact else _beginnings(orders)
    remains = {kept: _remains(text, spans, kept) for kept in dict.fromkeys(subsets)}
    texts = list(dict.fromkeys(remains.values()))
    values = np.asarray(value(texts), dtype=np.float64)
    if values.shape != (len(texts),):
        raise DataError(f"the value function returned {list(values.shape)} for {len(texts)} texts: one number each, please")
    wrong = np.flatnonzero(~np.isfinite(values))
    if len(wrong):
        raise DataError(f"the value of text {texts[wrong[0]]!r} is {values[wrong[0]]}, not a finite number")
    known = dict(zip(texts, values.tolist(), strict=True))
    scored = {kept: known[left] for kept, left in remains.items()}
    weights = _exact_weights(scored, len(spans)) if exact else _sampled_weights(scored, orders)
    found = tuple(Word(text[start:end], start, end, weight) for (start, end), weight in zip(spans, weights, strict=True))
    return Attribution(found, scored[()], scored[tuple(range(len(spans)))], len(orders))


def log_odds(judge: Judge, labels: Sequence[str], label: str) -> Value:
    """Return the value function texts -> log p / (1 - p) of a label, in nats; p is kept a millionth away from 0 and 1.

    Raises:
        SettingsError: if the judge has no such label; what it returns raises DataError, as `checked_probabilities`.
    """
    if label not in labels:
        raise SettingsError(f"emotion {label!r} is not one of the judge's: {', '.join(labels)}")
    place = list(labels).index(label)

    def value(texts: Sequence[str]) -> NDArray[np.float64]:
        share = checked_probabilities(judge(texts), labels)[:, place]
        bounded = np.clip(share, _LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY)
        return np.log(bounded) - np.log1p(-bounded)

    return value


def _orders(count: int, draws: int, seed: int, most_texts: int) -> list[list[int]]:
    """Random orders of the words, each followed by its reverse, in as many texts as may be scored."""
    pairs = min(draws // 2, (most_texts - 2) // (2 * (count - 1)))
    if pairs < 1:
        raise SettingsError(f"a text of {count} words takes {2 * count} texts to score: pass most_texts above {most_texts}")
    random = np.random.default_rng(seed)
    drawn = (random.permutation(count).tolist() for _ in range(pairs))
    return [order for one in drawn for order in (one, one[::-1])]


def _all_subsets(count: int) -> list[Kept]:
    return [tuple(place for place in range(count) if mask >> place & 1) for mask in range(2**count)]


def _beginnings(orders: Iterable[Sequence[int]]) -> list[Kept]:
    """Return what is kept after each word of each order, from nothing to all, in the text's order."""
    return [tuple(sorted(order[:length])) for order in orders for length in range(len(order) + 1)]


def _remains(text: str, spans: Sequence[tuple[int, int]], kept: Kept) -> str:
    pieces = [text[slice(*spans[place])] for place in kept]
    gaps = [_gap(text, spans, left, right) for left, right in pairwise(kept)]
    return "".join(piece + gap for piece, gap in zip(pieces, [*gaps, ""], strict=False))


def _gap(text: str, spans: Sequence[tuple[int, int]], left: int, right: int) -> str:
    """Return the blank between two kept words; a sign takes its own, so that a comma stays with the word before it."""
    own = text[spans[right - 1][1] : spans[right][0]]
    begins = text[slice(*spans[right])]
    if own or right == left + 1 or not begins[0].isalnum():
        return own
    between = (text[spans[place][1] : spans[place + 1][0]] for place in range(left, right))
    found = next(filter(None, between), "")
    return found or (" " if len(words(text[slice(*spans[left])] + begins)) == 1 else "")


def _exact_weights(scored: dict[Kept, float], count: int) -> list[float]:
    weights = np.zeros(count)
    for kept, worth in scored.items():
        inside = list(kept)
        outside = [place for place in range(count) if place not in kept]
        # A subset of k words is met just after one of them in (k - 1)! (n - k)! of the n! orders.
        weights[inside] += worth / (max(1, len(inside)) * math.comb(count, len(inside)))
        weights[outside] -= worth / (max(1, len(outside)) * math.comb(count, len(inside)))
    found: list[float] = weights.tolist()
    return found


def _sampled_weights(scored: dict[Kept, float], orders: Sequence[Sequence[int]]) -> list[float]:
    gained = np.zeros(len(orders[0]))
    for order in orders:
        worth = [scored[kept] for kept in _beginnings([order])]
        gained[list(order)] += np.diff(worth)
    found: list[float] = (gained / len(orders)).tolist()
    return found
