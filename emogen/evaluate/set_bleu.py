"""BLEU within a set of texts, and between two sets: self-BLEU, forward and backward BLEU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from emogen.errors import UndefinedScoreError
from emogen.evaluate.diversity import METHOD1_EPSILON, check_order
from emogen.evaluate.metric import Metric
from emogen.evaluate.resampling import Counts, SumStatistic, Values, mean_tally
from emogen.evaluate.score import require_items, signature
from emogen.text.words import WORDS_VERSION, words


@Metric
def self_bleu(texts: Sequence[str], order: int = 4) -> SumStatistic:
    """Return the mean sentence BLEU of each text against all the others: high when the texts are alike.

    Equals NLTK's `sentence_bleu` with uniform weights and `SmoothingFunction().method1`, the others as references, but takes a
    few sorts of the words: of the counts of an n-gram in single texts the two largest are kept, so that leaving a text out is
    a look-up. That smoothing holds texts shorter than `order` words below 1 even when they are all the same. It grows with the
    number of texts: compare at equal numbers only. The interval is a bootstrap over the texts' values, with the references
    held fixed.

    Args:
        texts: at least two; an empty text scores 0.
        order: longest n-gram, 1 or more; words are those of `emogen.text.words`.

    Returns:
        From 0 to 1.

    Raises:
        UndefinedScoreError: if there are fewer than two texts.
        SettingsError: if `order` is below 1.

    Source: Zhu et al. 2018, Texygen; Chen & Cherry 2014 for the smoothing.
    """
    check_order("order", order)
    if len(texts) < 2:
        raise UndefinedScoreError(f"self-BLEU compares texts with each other and got {len(texts)}: pass at least two")
    numbered = _number_words(texts)
    matches = _matches(numbered, order, _largest_elsewhere)
    counts = Counter(numbered.lengths.tolist())
    closest = {own: own if times > 1 else _closest(own, counts.keys() - {own}) for own, times in counts.items()}
    values = _smoothed_bleu(numbered.lengths, matches, np.array([closest[length] for length in numbered.lengths.tolist()]))
    fields = {"order": order, "smooth": "method1", "words": WORDS_VERSION, "texts": len(texts)}
    return mean_tally(values, signature("self_bleu", fields))


@Metric
def forward_bleu(texts: Sequence[str], references: Sequence[str], order: int = 4) -> SumStatistic:
    """Return the mean sentence BLEU of each text against all the references at once: Texygen's "BLEU", a measure of quality.

    Equals NLTK's `sentence_bleu` with uniform weights and `SmoothingFunction().method1`, in the time of a few sorts of all
    words. It grows with the number of references: compare at equal ones only. One good sentence said over and over scores
    high: read it beside `backward_bleu` or `self_bleu`. The interval is a bootstrap over the texts' values, with the
    references held fixed.

    Args:
        texts: generated, at least one; an empty text scores 0.
        references: real, at least one; none belongs to any one text.
        order: longest n-gram, 1 or more; words are those of `emogen.text.words`.

    Returns:
        From 0 to 1.

    Raises:
        DataError: if there is no text or no reference.
        SettingsError: if `order` is below 1.

    Source: Zhu et al. 2018, Texygen; Chen & Cherry 2014 for the smoothing.
    """
    signed = signature("forward_bleu", _bleu_fields(texts, references, order))
    return mean_tally(_bleu_against_all(texts, references, order), signed)


@Metric
def backward_bleu(texts: Sequence[str], references: Sequence[str], order: int = 4) -> SumStatistic:
    """Return the mean sentence BLEU of each reference against all the texts at once: how much of the real text is covered.

    `forward_bleu` with the roles swapped. It grows with the number of texts: compare at equal numbers only. The interval is a
    bootstrap over the references' values; the texts are held fixed, so it says nothing of another run of the generator.

    Args:
        texts: generated, at least one.
        references: real, at least one; an empty one scores 0.
        order: longest n-gram, 1 or more; words are those of `emogen.text.words`.

    Returns:
        From 0 to 1.

    Raises:
        DataError: if there is no text or no reference.
        SettingsError: if `order` is below 1.

    Source: Shi et al. 2018, Toward diverse text generation with inverse reinforcement learning.
    """
    signed = signature("backward_bleu", _bleu_fields(texts, references, order))
    return mean_tally(_bleu_against_all(references, texts, order), signed)


class _Numbered(NamedTuple):
    """Texts as word numbers: `ids` [words], all texts one after another, and `lengths` [texts]."""

    ids: Counts
    lengths: Counts


def _number_words(texts: Iterable[str]) -> _Numbered:
    index: dict[str, int] = {}
    ids: list[int] = []
    lengths: list[int] = []
    for text in texts:
        sentence = words(text)
        ids.extend(index.setdefault(word, len(index)) for word in sentence)
        lengths.append(len(sentence))
    return _Numbered(np.array(ids, dtype=np.int64), np.array(lengths, dtype=np.int64))


class _Counted(NamedTuple):
    """How often n-gram `kinds` occurs in text `owners`, each [pairs]; `among` is the number of kinds."""

    kinds: Counts
    owners: Counts
    times: Counts
    among: int


def _count_ngrams(texts: _Numbered, order: int) -> Iterator[_Counted]:
    """Yield the n-grams of orders 1 to `order`.

    Those of an order are numbered as pairs of one a word shorter and a last word.
    """
    ids, lengths = texts
    owners = np.repeat(np.arange(len(lengths)), lengths)
    left = np.cumsum(lengths)[owners] - np.arange(len(ids))
    starts, kinds = np.arange(len(ids)), ids
    for n in range(1, order + 1):
        if n > 1:
            fits = left[starts] >= n
            starts = starts[fits]
            kinds = np.unique(kinds[fits] * (ids.max(initial=0) + 1) + ids[starts + n - 1], return_inverse=True)[1]
        pairs, times = np.unique(kinds * len(lengths) + owners[starts], return_counts=True)
        yield _Counted(*np.divmod(pairs, len(lengths)), times, int(kinds.max(initial=-1)) + 1)


def _largest(counted: _Counted, chosen: NDArray[np.bool_]) -> Counts:
    """Largest count of each kind in one text, [kinds], over the chosen pairs; 0 if it is in none."""
    largest = np.zeros(counted.among, dtype=np.int64)
    np.maximum.at(largest, counted.kinds[chosen], counted.times[chosen])
    return largest


def _largest_elsewhere(counted: _Counted) -> Counts:
    """Return for each pair the largest count of its n-gram in one other text."""
    kinds = counted.kinds
    first = _largest(counted, np.ones(len(kinds), dtype=np.bool_))[kinds]
    leads = counted.times == first
    second = _largest(counted, ~leads)[kinds]
    leaders = np.bincount(kinds[leads], minlength=counted.among)[kinds]
    return np.where(leads & (leaders == 1), second, first)


def _matches(texts: _Numbered, order: int, ceilings: Callable[[_Counted], Counts]) -> Values:
    """Return n-grams of each text, clipped at their ceilings, [order, texts]."""
    rows = [
        np.bincount(counted.owners, np.minimum(counted.times, ceilings(counted)), minlength=len(texts.lengths))
        for counted in _count_ngrams(texts, order)
    ]
    return np.array(rows)


def _closest(length: int, others: Iterable[int]) -> int:
    """Return the shorter of two as close."""
    return min(others, key=lambda other: (abs(other - length), other))


def _closest_lengths(lengths: Counts, references: Counts) -> Counts:
    """Return for each length the closest one of a reference."""
    others = set(references.tolist())
    closest = {own: _closest(own, others) for own in set(lengths.tolist())}
    return np.array([closest[length] for length in lengths.tolist()])


def _smoothed_bleu(lengths: Counts, matches: NDArray[Any], closest: Counts) -> Values:
    """Return sentence BLEU with method1 of Chen & Cherry, [texts], from matches [order, texts]."""
    brevity = np.exp(np.minimum(0, 1 - closest / np.maximum(1, lengths)))
    totals = np.maximum(1, lengths - np.arange(len(matches))[:, np.newaxis])
    precisions = np.where(matches > 0, matches, METHOD1_EPSILON) / totals
    return np.where(matches[0] > 0, brevity * np.exp(np.log(precisions).mean(axis=0)), 0.0)


def _bleu_against_all(hypotheses: Sequence[str], references: Sequence[str], order: int) -> Values:
    """Return smoothed BLEU of each hypothesis, [hypotheses]."""
    count = len(hypotheses)
    numbered = _number_words([*hypotheses, *references])
    matches = _matches(numbered, order, lambda counted: _largest(counted, counted.owners >= count)[counted.kinds])
    lengths, others = numbered.lengths[:count], numbered.lengths[count:]
    return _smoothed_bleu(lengths, matches[:, :count], _closest_lengths(lengths, others))


def _bleu_fields(texts: Sequence[str], references: Sequence[str], order: int) -> dict[str, object]:
    """Return checked, and in the order of the signature."""
    check_order("order", order)
    require_items(texts, "texts")
    require_items(references, "references")
    return {
        "order": order,
        "smooth": "method1",
        "words": WORDS_VERSION,
        "texts": len(texts),
        "references": len(references),
    }
