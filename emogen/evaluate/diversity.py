"""Diversity of a set of texts: how much they repeat themselves, each other, and what a model was trained on.

Words are those of `emogen.text.words`: a Han or kana character, a punctuation mark and an emoji are words of
their own. An n-gram never crosses two texts; a text shorter than `n` words, such as a blank one, has none.
Each metric has a `_pool` or `_tally` form for tests between two systems. All hold their texts in memory:
sample millions first with `resampling.reservoir`.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from emogen.errors import SettingsError, UndefinedScoreError
from emogen.evaluate.metric import Metric
from emogen.evaluate.resampling import Counts, CountStatistic, SumStatistic, Values, mean_tally, pool
from emogen.evaluate.score import require_items, signature
from emogen.text.words import WORDS_VERSION, words

METHOD1_EPSILON = 0.1


@Metric
def distinct(texts: Sequence[str], n: int) -> CountStatistic:
    """Return the share of different n-grams among all n-grams, pooled over the texts.

    It falls as the texts grow in number or length: compare it at equal numbers only, or use `distinct_corrected`. The interval
    comes from half-samples without replacement, since the duplicates of a bootstrap would bias it downward.

    Args:
        texts: at least one; a text shorter than `n` words adds nothing.
        n: words in an n-gram, 1 or more; words are those of `emogen.text.words`.

    Returns:
        From 0 to 1; 0 if no text has `n` words.

    Raises:
        DataError: if there is no text.
        SettingsError: if `n` is below 1.

    Source: Li et al. 2016, A diversity-promoting objective function for neural conversation models.
    """
    fields = {"n": n, "words": WORDS_VERSION, "texts": len(texts)}
    return _ngram_pool(texts, n, _share_of_kinds, signature("distinct", fields))


@Metric
def distinct_corrected(texts: Sequence[str], n: int, sample: int = 1000) -> CountStatistic:
    """Return distinct-n corrected for the amount of text: its expected value in `sample` n-grams drawn from all of them.

    With N n-grams in all, c_k of them of kind k, and draws without replacement, the value is exactly
    sum_k (1 - C(N - c_k, sample) / C(N, sample)) / sample: nothing is drawn. Unlike `distinct` it does not depend on the number
    of texts, except that repetition within one text weighs more where texts are few. It does depend on `sample`: compare at
    equal ones only. The interval comes from half-samples as that of `distinct`; halves with fewer than `sample` n-grams are
    taken whole, so it is rough below 2 * `sample` n-grams.

    Args:
        texts: at least one, with at least `sample` n-grams together; a text shorter than `n` words adds nothing.
        n: words in an n-gram, 1 or more.
        sample: n-grams drawn, 1 or more.

    Returns:
        From 1 / sample to 1.

    Raises:
        DataError: if there is no text.
        UndefinedScoreError: if the texts have fewer than `sample` n-grams.
        SettingsError: if `n` or `sample` is below 1.

    Source: rarefaction, Hurlbert 1971, The nonconcept of species diversity; on words HD-D, McCarthy & Jarvis 2007, vocd: a
    theoretical and empirical evaluation.
    """
    if sample < 1:
        raise SettingsError(f"sample is {sample}: pass a number of n-grams of at least 1")
    fields = {"n": n, "sample": sample, "words": WORDS_VERSION, "texts": len(texts)}
    pooled = _ngram_pool(texts, n, lambda counts: _rarefy(counts, sample), signature("distinct_corrected", fields))
    if len(pooled.kinds) < sample:
        raise UndefinedScoreError(
            f"sample is {sample} but the texts have only {len(pooled.kinds)} {n}-grams: pass a smaller sample= or more texts"
        )
    return pooled


@Metric
def ngram_entropy(texts: Sequence[str], n: int) -> CountStatistic:
    """Return the entropy of the n-grams' relative frequencies, pooled over the texts.

    The frequencies are those of the sample, so the value lies below the entropy of the generator, by about
    (different n-grams - 1) / (2 * n-grams) nats (Miller 1955) and more where most n-grams occur once: it grows with the number
    of texts and can never pass the log of the number of n-grams. Compare it at equal numbers only. The interval comes from
    half-samples as that of `distinct`, and leaves that bias out.

    Args:
        texts: at least one; a text shorter than `n` words adds nothing.
        n: words in an n-gram, 1 or more.

    Returns:
        Nats, 0 or more; 0 if no text has `n` words.

    Raises:
        DataError: if there is no text.
        SettingsError: if `n` is below 1.

    Source: Ent-n of Zhang et al. 2018, Generating informative and diverse conversational responses via adversarial information
    maximization.
    """
    fields = {"n": n, "words": WORDS_VERSION, "texts": len(texts)}
    pooled = _ngram_pool(texts, n, _entropy, signature("ngram_entropy", fields))
    return replace(pooled, bounds=(0.0, math.log(max(1, len(pooled.kinds)))))


@Metric
def unique(texts: Sequence[str]) -> CountStatistic:
    """Return the share of different texts among all texts, compared character by character.

    The interval comes from half-samples without replacement, as that of `distinct`.

    Returns:
        From 1 / number of texts (all the same) to 1 (no two alike).

    Raises:
        DataError: if there is no text.
    """
    return pool(([text] for text in texts), _share_of_kinds, signature("unique", {"texts": len(texts)}))


@Metric
def commonest(texts: Sequence[str]) -> CountStatistic:
    """Return the share of the most frequent text among all texts: near 1 when a generator has collapsed.

    The interval comes from half-samples without replacement, as that of `distinct`.

    Returns:
        From 1 / number of texts (no two alike) to 1 (all the same).

    Raises:
        DataError: if there is no text.
    """
    return pool(([text] for text in texts), _share_of_commonest, signature("commonest", {"texts": len(texts)}))


@dataclass(frozen=True)
class Lengths:
    """How long texts are, in words of `emogen.text.words` unless said.

    Attributes:
        mean: over the texts.
        deviation: standard deviation over these texts, as a population.
        quantiles: 5%, 25%, 50%, 75% and 95%, interpolated linearly between texts.
        characters: mean number of Unicode code points, blanks included.
    """

    mean: float
    deviation: float
    quantiles: tuple[float, float, float, float, float]
    characters: float


def length_distribution(texts: Sequence[str]) -> Lengths:
    """Return the mean, spread and quantiles of the texts' lengths; a blank text has 0 words.

    Raises:
        DataError: if there is no text.

    >>> length_distribution(["yes", "no !", "我很好"])
    Lengths(mean=2.0, deviation=0.816496580927726, quantiles=(1.1, 1.5, 2.0, 2.5, 2.9), characters=3.3333333333333335)
    """
    require_items(texts, "texts")
    lengths = np.array([len(words(text)) for text in texts])
    low, lower, middle, upper, high = np.quantile(lengths, [0.05, 0.25, 0.5, 0.75, 0.95]).tolist()
    characters = sum(map(len, texts)) / len(texts)
    return Lengths(float(lengths.mean()), float(lengths.std()), (low, lower, middle, upper, high), characters)


@Metric
def mean_length(texts: Sequence[str]) -> SumStatistic:
    """Return the mean number of words in a text, with a bootstrap interval; a blank text has 0.

    Raises:
        DataError: if there is no text.
    """
    require_items(texts, "texts")
    fields = {"words": WORDS_VERSION, "texts": len(texts)}
    return mean_tally((float(len(words(text))) for text in texts), signature("mean_length", fields))


def check_order(name: str, order: int) -> None:
    """Raise SettingsError where an order of n-grams is no positive number."""
    if order < 1:
        raise SettingsError(f"{name} is {order}: pass a number of words of at least 1")


def _ngrams(sentence: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    return zip(*(sentence[start:] for start in range(n)), strict=False)


def join_ngrams(sentence: Sequence[str], n: int) -> Iterator[str]:
    """Return n-grams as strings, which take half the memory of tuples; no word holds a blank."""
    return map(" ".join, _ngrams(sentence, n))


def _ngram_pool(texts: Sequence[str], n: int, metric: Callable[[Counts], float], signed: str) -> CountStatistic:
    check_order("n", n)
    return pool((list(_ngrams(words(text), n)) for text in texts), metric, signed)


def _share_of_kinds(counts: Counts) -> float:
    return float(np.count_nonzero(counts) / max(1, int(counts.sum())))


def _share_of_commonest(counts: Counts) -> float:
    return float(counts.max() / counts.sum())


def _rarefy(counts: Counts, sample: int) -> float:
    """Return expected share of kinds in `sample` draws without replacement, or in as many as there are."""
    total = int(counts.sum())
    drawn = min(sample, total)
    # C(total - count, drawn) / C(total, drawn) as a product of `count` ratios: no large numbers, so no digits lost.
    left = total - np.arange(counts.max(initial=0))
    absent = np.cumprod((left - drawn) / left)
    return float(np.bincount(counts)[1:] @ (1 - absent)) / max(1, drawn)


def _entropy(counts: Counts) -> float:
    """Return the entropy in nats; summed by count and not by kind, so that the order of the kinds changes no digit."""
    kinds = np.bincount(counts)[1:]
    shares = np.arange(1, len(kinds) + 1) / counts.sum()
    return float((kinds * shares) @ np.log(1 / shares))


def ratio_of_sums(sums: Values) -> Values:
    """Return the first of two sums over the second, [...]."""
    share: Values = sums[..., 0] / np.maximum(1, sums[..., 1])
    return share
