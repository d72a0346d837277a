"""Diversity of a set of texts: how much they repeat themselves, each other, and what a model was trained on.

Words are those of `emogen.text.words`: a Han or kana character, a punctuation mark and an emoji are words of
their own. An n-gram never crosses two texts; a text shorter than `n` words, such as a blank one, has none.
Each metric has a `_pool` or `_tally` form for tests between two systems. All hold their texts in memory:
sample millions first with `resampling.reservoir`.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from emogen.errors import DataError, SettingsError, UndefinedScoreError
from emogen.evaluate.resampling import Counts, CountStatistic, SumStatistic, Values, added_up, mean_tally, pool
from emogen.evaluate.score import Score, require_items, signature
from emogen.text.words import WORDS_VERSION, words

_METHOD1_EPSILON = 0.1


def distinct(texts: Sequence[str], n: int, seed: int = 0) -> Score:
    """Return the share of different n-grams among all n-grams, pooled over the texts.

    It falls as the texts grow in number or length: compare it at equal numbers only, or use `distinct_corrected`. The interval
    comes from half-samples without replacement, since the duplicates of a bootstrap would bias it downward.

    Args:
        texts: at least one; a text shorter than `n` words adds nothing.
        n: words in an n-gram, 1 or more; words are those of `emogen.text.words`.
        seed: of the half-samples.

    Returns:
        From 0 to 1; 0 if no text has `n` words.

    Raises:
        DataError: if there is no text.
        SettingsError: if `n` is below 1.

    Source: Li et al. 2016, A diversity-promoting objective function for neural conversation models.
    """
    return distinct_pool(texts, n).score(seed)


def distinct_pool(texts: Sequence[str], n: int) -> CountStatistic:
    """Return the pool behind `distinct`; arguments and errors as there."""
    fields = {"n": n, "words": WORDS_VERSION, "texts": len(texts)}
    return _ngram_pool(texts, n, _share_of_kinds, signature("distinct", fields))


def distinct_corrected(texts: Sequence[str], n: int, sample: int = 1000, seed: int = 0) -> Score:
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
        seed: of the half-samples.

    Returns:
        From 1 / sample to 1.

    Raises:
        DataError: if there is no text.
        UndefinedScoreError: if the texts have fewer than `sample` n-grams.
        SettingsError: if `n` or `sample` is below 1.

    Source: rarefaction, Hurlbert 1971, The nonconcept of species diversity; on words HD-D, McCarthy & Jarvis 2007, vocd: a
    theoretical and empirical evaluation.
    """
    return distinct_corrected_pool(texts, n, sample).score(seed)


def distinct_corrected_pool(texts: Sequence[str], n: int, sample: int = 1000) -> CountStatistic:
    """Return the pool behind `distinct_corrected`; arguments and errors as there. Fewer than `sample` n-grams are taken whole."""
    if sample < 1:
        raise SettingsError(f"sample is {sample}: pass a number of n-grams of at least 1")
    fields = {"n": n, "sample": sample, "words": WORDS_VERSION, "texts": len(texts)}
    pooled = _ngram_pool(texts, n, lambda counts: _rarefy(counts, sample), signature("distinct_corrected", fields))
    if len(pooled.kinds) < sample:
        raise UndefinedScoreError(
            f"sample is {sample} but the texts have only {len(pooled.kinds)} {n}-grams: pass a smaller sample= or more texts"
        )
    return pooled


def ngram_entropy(texts: Sequence[str], n: int, seed: int = 0) -> Score:
    """Return the entropy of the n-grams' relative frequencies, pooled over the texts.

    The frequencies are those of the sample, so the value lies below the entropy of the generator, by about
    (different n-grams - 1) / (2 * n-grams) nats (Miller 1955) and more where most n-grams occur once: it grows with the number
    of texts and can never pass the log of the number of n-grams. Compare it at equal numbers only. The interval comes from
    half-samples as that of `distinct`, and leaves that bias out.

    Args:
        texts: at least one; a text shorter than `n` words adds nothing.
        n: words in an n-gram, 1 or more.
        seed: of the half-samples.

    Returns:
        Nats, 0 or more; 0 if no text has `n` words.

    Raises:
        DataError: if there is no text.
        SettingsError: if `n` is below 1.

    Source: Ent-n of Zhang et al. 2018, Generating informative and diverse conversational responses via adversarial information
    maximization.
    """
    return ngram_entropy_pool(texts, n).score(seed)


def ngram_entropy_pool(texts: Sequence[str], n: int) -> CountStatistic:
    """Return the pool behind `ngram_entropy`; arguments and errors as there."""
    fields = {"n": n, "words": WORDS_VERSION, "texts": len(texts)}
    pooled = _ngram_pool(texts, n, _entropy, signature("ngram_entropy", fields))
    return replace(pooled, bounds=(0.0, math.log(max(1, len(pooled.kinds)))))


def unique(texts: Sequence[str], seed: int = 0) -> Score:
    """Return the share of different texts among all texts, compared character by character.

    The interval comes from half-samples without replacement, as that of `distinct`.

    Returns:
        From 1 / number of texts (all the same) to 1 (no two alike).

    Raises:
        DataError: if there is no text.
    """
    return unique_pool(texts).score(seed)


def unique_pool(texts: Sequence[str]) -> CountStatistic:
    """Return the pool behind `unique`; arguments and errors as there."""
    return pool(([text] for text in texts), _share_of_kinds, signature("unique", {"texts": len(texts)}))


def commonest(texts: Sequence[str], seed: int = 0) -> Score:
    """Return the share of the most frequent text among all texts: near 1 when a generator has collapsed.

    The interval comes from half-samples without replacement, as that of `distinct`.

    Returns:
        From 1 / number of texts (no two alike) to 1 (all the same).

    Raises:
        DataError: if there is no text.
    """
    return commonest_pool(texts).score(seed)


def commonest_pool(texts: Sequence[str]) -> CountStatistic:
    """Return the pool behind `commonest`; arguments and errors as there."""
    return pool(([text] for text in texts), _share_of_commonest, signature("commonest", {"texts": len(texts)}))


def self_bleu(texts: Sequence[str], order: int = 4, seed: int = 0) -> Score:
    """Return the mean sentence BLEU of each text against all the others: high when the texts are alike.

    Equals NLTK's `sentence_bleu` with uniform weights and `SmoothingFunction().method1`, the others as references, but takes a
    few sorts of the words: of the counts of an n-gram in single texts the two largest are kept, so that leaving a text out is
    a look-up. That smoothing holds texts shorter than `order` words below 1 even when they are all the same. It grows with the
    number of texts: compare at equal numbers only. The interval is a bootstrap over the texts' values, with the references
    held fixed.

    Args:
        texts: at least two; an empty text scores 0.
        order: longest n-gram, 1 or more; words are those of `emogen.text.words`.
        seed: of the bootstrap.

    Returns:
        From 0 to 1.

    Raises:
        UndefinedScoreError: if there are fewer than two texts.
        SettingsError: if `order` is below 1.

    Source: Zhu et al. 2018, Texygen; Chen & Cherry 2014 for the smoothing.
    """
    return self_bleu_tally(texts, order).score(seed)


def self_bleu_tally(texts: Sequence[str], order: int = 4) -> SumStatistic:
    """Return the tally behind `self_bleu`; arguments and errors as there."""
    _check_order("order", order)
    if len(texts) < 2:
        raise UndefinedScoreError(f"self-BLEU compares texts with each other and got {len(texts)}: pass at least two")
    numbered = _number_words(texts)
    matches = _matches(numbered, order, _largest_elsewhere)
    counts = Counter(numbered.lengths.tolist())
    closest = {own: own if times > 1 else _closest(own, counts.keys() - {own}) for own, times in counts.items()}
    values = _smoothed_bleu(numbered.lengths, matches, np.array([closest[length] for length in numbered.lengths.tolist()]))
    fields = {"order": order, "smooth": "method1", "words": WORDS_VERSION, "texts": len(texts)}
    return mean_tally(values, signature("self_bleu", fields))


def forward_bleu(texts: Sequence[str], references: Sequence[str], order: int = 4, seed: int = 0) -> Score:
    """Return the mean sentence BLEU of each text against all the references at once: Texygen's "BLEU", a measure of quality.

    Equals NLTK's `sentence_bleu` with uniform weights and `SmoothingFunction().method1`, in the time of a few sorts of all
    words. It grows with the number of references: compare at equal ones only. One good sentence said over and over scores
    high: read it beside `backward_bleu` or `self_bleu`. The interval is a bootstrap over the texts' values, with the
    references held fixed.

    Args:
        texts: generated, at least one; an empty text scores 0.
        references: real, at least one; none belongs to any one text.
        order: longest n-gram, 1 or more; words are those of `emogen.text.words`.
        seed: of the bootstrap.

    Returns:
        From 0 to 1.

    Raises:
        DataError: if there is no text or no reference.
        SettingsError: if `order` is below 1.

    Source: Zhu et al. 2018, Texygen; Chen & Cherry 2014 for the smoothing.
    """
    return forward_bleu_tally(texts, references, order).score(seed)


def forward_bleu_tally(texts: Sequence[str], references: Sequence[str], order: int = 4) -> SumStatistic:
    """Return the tally behind `forward_bleu`; arguments and errors as there."""
    signed = signature("forward_bleu", _bleu_fields(texts, references, order))
    return mean_tally(_bleu_against_all(texts, references, order), signed)


def backward_bleu(texts: Sequence[str], references: Sequence[str], order: int = 4, seed: int = 0) -> Score:
    """Return the mean sentence BLEU of each reference against all the texts at once: how much of the real text is covered.

    `forward_bleu` with the roles swapped. It grows with the number of texts: compare at equal numbers only. The interval is a
    bootstrap over the references' values; the texts are held fixed, so it says nothing of another run of the generator.

    Args:
        texts: generated, at least one.
        references: real, at least one; an empty one scores 0.
        order: longest n-gram, 1 or more; words are those of `emogen.text.words`.
        seed: of the bootstrap.

    Returns:
        From 0 to 1.

    Raises:
        DataError: if there is no text or no reference.
        SettingsError: if `order` is below 1.

    Source: Shi et al. 2018, Toward diverse text generation with inverse reinforcement learning.
    """
    return backward_bleu_tally(texts, references, order).score(seed)


def backward_bleu_tally(texts: Sequence[str], references: Sequence[str], order: int = 4) -> SumStatistic:
    """Return the tally behind `backward_bleu`, an item a reference; arguments and errors as there."""
    signed = signature("backward_bleu", _bleu_fields(texts, references, order))
    return mean_tally(_bleu_against_all(references, texts, order), signed)


@dataclass(frozen=True)
class Seen:
    """What training texts hold of some other texts; `seen_in_training` makes it.

    Attributes:
        n: words in an n-gram.
        training: how many training texts there were.
        novel: the n-grams of the texts that no training text holds, words joined by blanks.
        copied: the texts as their words joined by blanks, and whether a training text has the same words.
    """

    n: int
    training: int
    novel: frozenset[str]
    copied: Mapping[str, bool]


def seen_in_training(texts: Sequence[str], training: Iterable[str], n: int = 4) -> Seen:
    """Look for the texts and their n-grams in training texts, in one pass; for `novelty_tally` and `copied_tally`.

    The texts of several systems may be passed together.

    Args:
        texts: at least one; they and their n-grams are held in memory.
        training: at least one; read once, one at a time.
        n: words in an n-gram, 1 or more.

    Raises:
        DataError: if there is no text or no training text (an iterator is empty when it was read before).
        SettingsError: if `n` is below 1.
    """
    _check_order("n", n)
    require_items(texts, "texts")
    novel = {ngram for text in texts for ngram in _joined_ngrams(words(text), n)}
    whole = dict.fromkeys(map(_normal, texts), False)
    read = 0
    for text in training:
        read += 1
        sentence = words(text)
        novel.difference_update(_joined_ngrams(sentence, n))
        if (normal := " ".join(sentence)) in whole:
            whole[normal] = True
    if not read:
        raise DataError("no training texts to look in: pass at least one, and an iterator only once")
    return Seen(n, read, frozenset(novel), whole)


def novelty(texts: Sequence[str], training: Iterable[str], n: int = 4, seed: int = 0) -> Score:
    """Return the share of the texts' n-grams that occur in no training text, pooled over the texts.

    Every occurrence counts, so long texts weigh more and a novel n-gram said twice counts twice. With more training texts it
    falls. The interval is a bootstrap over the texts. For `copied` in the same pass over the training texts use
    `seen_in_training`, `novelty_tally` and `copied_tally`.

    Args:
        texts: at least one; a text shorter than `n` words adds nothing.
        training: what the generator was trained on, at least one; read once, one at a time, and not held.
        n: words in an n-gram, 1 or more.
        seed: of the bootstrap.

    Returns:
        From 0 (all seen) to 1; 0 if no text has `n` words.

    Raises:
        DataError: if there is no text or no training text.
        SettingsError: if `n` is below 1.

    Source: McCoy et al. 2023, How much do language models copy from their training data?
    """
    return novelty_tally(texts, seen_in_training(texts, training, n)).score(seed)


def novelty_tally(texts: Sequence[str], seen: Seen) -> SumStatistic:
    """Return the tally behind `novelty`, of n-grams as long as those of `seen`.

    Raises:
        DataError: if there is no text, or one that was not passed to `seen_in_training`.
    """
    _check_looked_for(texts, seen)
    ngrams = (list(_joined_ngrams(words(text), seen.n)) for text in texts)
    sums = added_up((sum(ngram in seen.novel for ngram in owned), len(owned)) for owned in ngrams)
    fields = {"n": seen.n, "words": WORDS_VERSION, "texts": len(texts), "training": seen.training}
    return SumStatistic(sums, _share, signature("novelty", fields))


def copied(texts: Sequence[str], training: Iterable[str], seed: int = 0) -> Score:
    """Return the share of texts that are a whole training text, word for word; case and blanks do not count.

    Short texts ("thank you.") are copies without having been learnt by heart: read it beside that of real held-out texts. The
    interval is a bootstrap over the texts.

    Args:
        texts: at least one; a blank text is a copy if a training text is blank.
        training: what the generator was trained on, at least one; read once, one at a time, and not held.
        seed: of the bootstrap.

    Returns:
        From 0 to 1 (all copied).

    Raises:
        DataError: if there is no text or no training text.
    """
    return copied_tally(texts, seen_in_training(texts, training)).score(seed)


def copied_tally(texts: Sequence[str], seen: Seen) -> SumStatistic:
    """Return the tally behind `copied`.

    Raises:
        DataError: if there is no text, or one that was not passed to `seen_in_training`.
    """
    _check_looked_for(texts, seen)
    fields = {"words": WORDS_VERSION, "texts": len(texts), "training": seen.training}
    return mean_tally((float(seen.copied[_normal(text)]) for text in texts), signature("copied", fields))


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


def mean_length(texts: Sequence[str], seed: int = 0) -> Score:
    """Return the mean number of words in a text, with a bootstrap interval; a blank text has 0.

    Raises:
        DataError: if there is no text.
    """
    return mean_length_tally(texts).score(seed)


def mean_length_tally(texts: Sequence[str]) -> SumStatistic:
    """Return the tally behind `mean_length`; arguments and errors as there."""
    require_items(texts, "texts")
    fields = {"words": WORDS_VERSION, "texts": len(texts)}
    return mean_tally((float(len(words(text))) for text in texts), signature("mean_length", fields))


def _check_order(name: str, order: int) -> None:
    if order < 1:
        raise SettingsError(f"{name} is {order}: pass a number of words of at least 1")


def _check_looked_for(texts: Sequence[str], seen: Seen) -> None:
    for number, text in enumerate(texts):
        if _normal(text) not in seen.copied:
            raise DataError(f"texts[{number}] was not looked for in training: pass the same texts to seen_in_training")


def _ngrams(sentence: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    return zip(*(sentence[start:] for start in range(n)), strict=False)


def _joined_ngrams(sentence: Sequence[str], n: int) -> Iterator[str]:
    """Return n-grams as strings, which take half the memory of tuples; no word holds a blank."""
    return map(" ".join, _ngrams(sentence, n))


def _normal(text: str) -> str:
    return " ".join(words(text))


def _ngram_pool(texts: Sequence[str], n: int, metric: Callable[[Counts], float], signed: str) -> CountStatistic:
    _check_order("n", n)
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


def _share(sums: Values) -> Values:
    share: Values = sums[..., 0] / np.maximum(1, sums[..., 1])
    return share


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
    """Yield the n-grams of orders 1 to `order`; those of an order are numbered as pairs of one a word shorter and a last word."""
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
    precisions = np.where(matches > 0, matches, _METHOD1_EPSILON) / totals
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
    _check_order("order", order)
    require_items(texts, "texts")
    require_items(references, "references")
    return {
        "order": order,
        "smooth": "method1",
        "words": WORDS_VERSION,
        "texts": len(texts),
        "references": len(references),
    }
