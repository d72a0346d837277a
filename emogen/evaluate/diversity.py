"""Diversity of a set of texts."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from emogen.errors import DataError, SettingsError
from emogen.evaluate.score import Score, bootstrap_interval, half_sample_interval, require_items, signature
from emogen.words import WORDS_VERSION, words

Ngram = tuple[str, ...]
Counts = NDArray[np.int64]

_METHOD1_EPSILON = 0.1


def distinct(texts: Sequence[str], n: int, seed: int = 0) -> Score:
    """Share of different n-grams among all n-grams, pooled over the texts.

    It falls as the texts grow in number or length: compare it at equal numbers only. The interval comes from
    half-samples without replacement, since the duplicates of a bootstrap would bias it downward.

    Args:
        texts: at least one; a text shorter than `n` words adds nothing.
        n: words in an n-gram, 1 or more; words are those of `emogen.words`.
        seed: of the half-samples.

    Returns:
        From 0 to 1; 0 if no text has `n` words.

    Raises:
        DataError: if there is no text.
        SettingsError: if `n` is below 1.

    Source: Li et al. 2016, A diversity-promoting objective function for neural conversation models.
    """
    _check_order("n", n)
    items = _pool([list(_ngrams(words(text), n)) for text in texts])
    fields = {"n": n, "words": WORDS_VERSION, "texts": len(texts), "seed": seed}
    return _pooled_score(items, _share_of_kinds, signature("distinct", fields), seed)


def unique(texts: Sequence[str], seed: int = 0) -> Score:
    """Share of different texts among all texts, compared character by character.

    The interval comes from half-samples without replacement, as that of `distinct`.

    Returns:
        From 1 / number of texts (all the same) to 1 (no two alike).

    Raises:
        DataError: if there is no text.
    """
    fields = {"texts": len(texts), "seed": seed}
    return _pooled_score(_pool([[text] for text in texts]), _share_of_kinds, signature("unique", fields), seed)


def commonest(texts: Sequence[str], seed: int = 0) -> Score:
    """Share of the most frequent text among all texts: near 1 when a generator has collapsed.

    The interval comes from half-samples without replacement, as that of `distinct`.

    Returns:
        From 1 / number of texts (no two alike) to 1 (all the same).

    Raises:
        DataError: if there is no text.
    """
    fields = {"texts": len(texts), "seed": seed}
    return _pooled_score(_pool([[text] for text in texts]), _share_of_commonest, signature("commonest", fields), seed)


def self_bleu(texts: Sequence[str], order: int = 4, seed: int = 0) -> Score:
    """Mean sentence BLEU of each text against all the others: high when the texts are alike.

    Equals NLTK's `sentence_bleu` with uniform weights and `SmoothingFunction().method1`, the others as references,
    in time linear in the number of words: per n-gram the two largest counts are kept, so that leaving a text out is a
    look-up. That smoothing holds texts shorter than `order` words below 1 even when they are all the same. The interval
    is a bootstrap over the texts' values, with the references held fixed.

    Args:
        texts: at least two; an empty text scores 0.
        order: longest n-gram, 1 or more; words are those of `emogen.words`.
        seed: of the bootstrap.

    Returns:
        From 0 to 1.

    Raises:
        DataError: if there are fewer than two texts.
        SettingsError: if `order` is below 1.

    Source: Zhu et al. 2018, Texygen; Chen & Cherry 2014 for the smoothing.
    """
    _check_order("order", order)
    if len(texts) < 2:
        raise DataError(f"self-BLEU compares texts with each other and got {len(texts)}: pass at least two")
    values = _leave_one_out_bleu([words(text) for text in texts], order)
    low, high = bootstrap_interval(values, seed)
    fields = {"order": order, "smooth": "method1", "words": WORDS_VERSION, "texts": len(texts), "seed": seed}
    return Score(float(values.mean()), low, high, signature("self_bleu", fields))


def _check_order(name: str, order: int) -> None:
    if order < 1:
        raise SettingsError(f"{name} is {order}: pass a number of words of at least 1")


def _ngrams(sentence: Sequence[str], n: int) -> Iterator[Ngram]:
    return zip(*(sentence[start:] for start in range(n)), strict=False)


@dataclass(frozen=True)
class _Pool:
    """The items of all texts: `kinds` and `owners` [items] say which item it is and whose; `texts` is their number."""

    kinds: NDArray[np.int64]
    owners: NDArray[np.int64]
    texts: int

    def counts(self, chosen: NDArray[np.bool_]) -> Counts:
        """How often each kind occurs in the chosen texts; `chosen` is a mask [texts]."""
        return np.bincount(self.kinds[chosen[self.owners]])


def _pool(items: Sequence[Sequence[Hashable]]) -> _Pool:
    require_items(items, "texts")
    index: dict[Hashable, int] = {}
    kinds = [index.setdefault(item, len(index)) for listed in items for item in listed]
    owners = np.repeat(np.arange(len(items)), [len(listed) for listed in items])
    return _Pool(np.array(kinds, dtype=np.int64), owners, len(items))


def _pooled_score(pool: _Pool, share: Callable[[Counts], float], signed: str, seed: int) -> Score:
    value = share(pool.counts(np.ones(pool.texts, dtype=np.bool_)))
    low, high = half_sample_interval(value, lambda chosen: share(pool.counts(chosen)), pool.texts, seed)
    return Score(value, low, high, signed)


def _share_of_kinds(counts: Counts) -> float:
    return np.count_nonzero(counts) / max(1, int(counts.sum()))


def _share_of_commonest(counts: Counts) -> float:
    return float(counts.max() / counts.sum())


class _Top(NamedTuple):
    """The two largest counts of one n-gram in a text, and which text has the largest."""

    first: int = 0
    holder: int = -1
    second: int = 0

    def seen(self, count: int, text: int) -> "_Top":
        if count > self.first:
            return _Top(count, text, self.first)
        return _Top(self.first, self.holder, max(self.second, count))

    def without(self, text: int) -> int:
        return self.second if text == self.holder else self.first


def _top_counts(counts: Sequence[Counter[Ngram]]) -> dict[Ngram, _Top]:
    tops: dict[Ngram, _Top] = {}
    for text, own in enumerate(counts):
        for ngram, count in own.items():
            tops[ngram] = tops.get(ngram, _Top()).seen(count, text)
    return tops


def _matches(sentences: Sequence[Sequence[str]], n: int) -> list[int]:
    """N-grams of each sentence, clipped at their largest count in one other sentence."""
    counts = [Counter(_ngrams(sentence, n)) for sentence in sentences]
    tops = _top_counts(counts)
    return [sum(min(count, tops[ngram].without(text)) for ngram, count in own.items()) for text, own in enumerate(counts)]


def _closest_other_lengths(lengths: Sequence[int]) -> list[int]:
    """For each length the closest one of another sentence; the shorter of two as close."""
    counts = Counter(lengths)
    ranked = sorted(counts)
    closest = {}
    for rank, length in enumerate(ranked):
        near = ranked[max(0, rank - 1) : rank + 2]
        others = [other for other in near if other != length or counts[length] > 1]
        closest[length] = min(others, key=lambda other: (abs(other - length), other))
    return [closest[length] for length in lengths]


def _leave_one_out_bleu(sentences: Sequence[Sequence[str]], order: int) -> NDArray[np.float64]:
    """Smoothed BLEU of each sentence against all the others, [sentences]."""
    lengths = [len(sentence) for sentence in sentences]
    own = np.maximum(1, lengths)
    brevity = np.exp(np.minimum(0, 1 - np.array(_closest_other_lengths(lengths)) / own))
    matches: NDArray[Any] = np.array([_matches(sentences, n) for n in range(1, order + 1)])
    totals = np.maximum(1, np.array(lengths) - np.arange(order)[:, np.newaxis])
    precisions = np.where(matches > 0, matches, _METHOD1_EPSILON) / totals
    return np.where(matches[0] > 0, brevity * np.exp(np.log(precisions).mean(axis=0)), 0.0)
