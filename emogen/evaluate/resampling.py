"""The resampling behind intervals and tests, and the two forms of metric that it knows.

A `SumStatistic` is a metric of sums over the items (BLEU, accuracy, any mean): bootstrapped. A `CountStatistic` is a
metric of how often things
occur in all texts together (distinct n-grams): halved, since the duplicates of a bootstrap would bias it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emogen.errors import DataError, SettingsError
from emogen.evaluate.score import Score, require_items

RESAMPLES = 1000
MOST_BLOCKS = 20_000

_NORMAL_975 = 1.959963984540054

Counts = NDArray[np.int64]
Values = NDArray[np.float64]


@dataclass(frozen=True)
class SumStatistic:
    """A metric that follows from sums over the items.

    Attributes:
        sums: [blocks, columns] float64; a block is one item, or neighbouring items added up where there are many.
        metric: from sums over all blocks, [..., columns], to the metric's values, [...].
        signature: how it is computed, without seed and number of resamples.
    """

    sums: Values
    metric: Callable[[Values], Values]
    signature: str

    @property
    def value(self) -> float:
        """Return the metric over all items."""
        return float(self.metric(self.sums.sum(axis=0)))

    def score(self, seed: int = 0) -> Score:
        """Return the value with its 95% percentile bootstrap interval (Efron & Tibshirani 1993, chapter 13)."""
        low, high = percentile_interval(self.metric(bootstrap_sums(self.sums, seed)))
        return Score(self.value, low, high, f"{self.signature}|bs:{RESAMPLES}|seed:{seed}")


def added_up(rows: Iterable[Sequence[float] | NDArray[Any]], most: int = MOST_BLOCKS) -> Values:
    """Return rows of additive statistics as blocks [blocks, columns], in bounded memory however many rows come.

    Up to twice `most` rows stay as they are; beyond, neighbours are added up, two, four, eight and so on together, so that
    between `most` and twice `most` blocks remain. Equally many rows of two systems give blocks that are still pairs.

    Raises:
        DataError: if there is no row.
    """
    blocks: list[Values] = []
    begun: list[Values] = []
    size = 1
    for row in rows:
        begun.append(np.asarray(row, dtype=np.float64))
        if len(begun) == size:
            blocks.append(np.sum(begun, axis=0))
            begun = []
        if len(blocks) == 2 * most:
            blocks = [blocks[at] + blocks[at + 1] for at in range(0, len(blocks), 2)]
            size *= 2
    if begun:
        blocks.append(np.sum(begun, axis=0))
    require_items(blocks, "items")
    return np.stack(blocks)


def mean_tally(values: Iterable[float], signature: str) -> SumStatistic:
    """Return the mean of one value an item, as a tally.

    Raises:
        DataError: if there is no value, or one is not finite.
    """
    sums = added_up((value, 1.0) for value in values)
    if not np.isfinite(sums).all():
        raise DataError(f"{signature.partition('|')[0]}: a value is not finite (nan or infinite); score the texts again")
    return SumStatistic(sums, _ratio, signature)


def _ratio(sums: Values) -> Values:
    ratio: Values = sums[..., 0] / sums[..., 1]
    return ratio


@dataclass(frozen=True)
class CountStatistic:
    """A metric of how often each kind of thing occurs in all texts together.

    Attributes:
        kinds: [things] int64, a hash of each thing; equal things have equal ones, within this process.
        owners: [things] the text that each belongs to, counted from 0.
        texts: how many texts there are; some may own nothing.
        metric: from how often each kind occurs, [kinds] (zeros allowed), to the metric's value.
        signature: how it is computed, without the seed.
        bounds: the smallest and the largest value that the metric can take.
    """

    kinds: NDArray[np.int64]
    owners: NDArray[np.int64]
    texts: int
    metric: Callable[[Counts], float]
    signature: str
    bounds: tuple[float, float] = (0.0, 1.0)

    @property
    def value(self) -> float:
        """Return the metric over all texts."""
        return self.metric(np.unique(self.kinds, return_counts=True)[1])

    def score(self, seed: int = 0) -> Score:
        """Return the value with its 95% interval from half-samples."""
        value = self.value
        low, high = half_sample_interval(value, self.among(), self.texts, seed, bounds=self.bounds)
        return Score(value, low, high, f"{self.signature}|seed:{seed}")

    def among(self) -> Callable[[NDArray[np.bool_]], float]:
        """Return the metric over the texts that are marked in a mask [texts], as a function of the mask."""
        places = np.unique(self.kinds, return_inverse=True)[1]
        return lambda chosen: self.metric(np.bincount(places[chosen[self.owners]]))


def pool(things: Iterable[Sequence[Hashable]], metric: Callable[[Counts], float], signature: str) -> CountStatistic:
    """Return the things of each text, in the texts' order, as a pool.

    Raises:
        DataError: if there is no text.
    """
    kinds: list[int] = []
    sizes: list[int] = []
    for owned in things:
        kinds.extend(map(hash, owned))
        sizes.append(len(owned))
    require_items(sizes, "texts")
    owners = np.repeat(np.arange(len(sizes)), sizes)
    return CountStatistic(np.array(kinds, dtype=np.int64), owners, len(sizes), metric, signature)


def percentile_interval(draws: NDArray[np.float64], level: float = 0.95) -> tuple[float, float]:
    """Central interval that holds the share `level` of the draws."""
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def wilson_interval(share: float, items: int) -> tuple[float, float]:
    """Return 95% interval of a share of independent items; it has a width at 0 and 1 as well, where a bootstrap has none.

    Source: Wilson 1927, Probable inference, the law of succession, and statistical inference.

    >>> tuple(round(end, 4) for end in wilson_interval(1.0, 10))
    (0.7225, 1.0)
    """
    spread = _NORMAL_975**2 / items
    centre = (share + spread / 2) / (1 + spread)
    margin = (share * (1 - share) * spread + spread**2 / 4) ** 0.5 / (1 + spread)
    return max(0.0, min(share, centre - margin)), min(1.0, max(share, centre + margin))


def bootstrap_sums(statistics: NDArray[Any], seed: int, resamples: int = RESAMPLES) -> NDArray[Any]:
    """Column sums of as many rows as there are, drawn with repetition, `resamples` times.

    Args:
        statistics: [items, columns], one row of additive statistics an item.
        seed: of the draws.
        resamples: how many draws.

    Returns:
        [resamples, columns], in the type of `statistics`.
    """
    items = len(statistics)
    random = np.random.default_rng(seed)
    draws = (np.bincount(random.integers(items, size=items), minlength=items) for _ in range(resamples))
    return np.stack([times @ statistics for times in draws])


def bootstrap_interval(
    values: NDArray[np.float64], seed: int, resamples: int = RESAMPLES, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean.

    Args:
        values: [items], one value an item.
        seed: of the draws; the same seed gives the same interval.
        resamples: how many draws of all items with repetition.
        level: share of the draws inside the interval.

    Returns:
        The lower and the upper end; both are the value itself for a single item.

    Raises:
        DataError: if there is no value.

    Source: Efron & Tibshirani 1993, chapter 13.
    """
    require_items(values, "values")
    means = bootstrap_sums(values[:, np.newaxis], seed, resamples)[:, 0] / len(values)
    return percentile_interval(means, level)


def half_sample_interval(
    value: float,
    share: Callable[[NDArray[np.bool_]], float],
    items: int,
    seed: int,
    draws: int = 200,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> tuple[float, float]:
    """Return 95% interval of a share, or another figure, that repeated items would bias, from halves drawn without replacement.

    The spread of the halves about their median, times sqrt(half / (items - half)), estimates the spread of `value`:
    the factor joins the sample sizes (half to items) and the correction for a finite population, and is 1 for an even
    number. The median and not `value` is the centre, since such a share depends on the sample size. The spread is the
    sampling error of one run of this size; it says nothing about the share at another size.

    Args:
        value: the share over all items.
        share: the same share over the items marked in a mask [items].
        items: how many items there are.
        seed: of the draws.
        draws: how many halves.
        bounds: the least and the greatest possible value, 0 and 1 for a share.

    Returns:
        The lower and the upper end, about `value` and within `bounds`; both are `value` for a single item.

    Source: Politis, Romano & Wolf 1999, Subsampling, chapters 2 and 10.
    """
    half = items // 2
    if not half:
        return value, value
    random = np.random.default_rng(seed)
    marks = np.arange(items) < half
    halves = np.array([share(random.permutation(marks)) for _ in range(draws)])
    below, above = percentile_interval(halves - np.median(halves))
    scale = (half / (items - half)) ** 0.5
    least, most = bounds
    return max(least, value - scale * above), min(most, value - scale * below)


def reservoir(texts: Iterable[str], size: int, seed: int = 0) -> tuple[list[str], int]:
    """Return an even sample without replacement from texts that are read once, in memory for `size` of them.

    The places drawn follow from the seed and the number of texts alone: equally many texts of two systems, or texts and their
    references, stay pairs when both are sampled with one seed.

    Args:
        texts: any number, read one at a time.
        size: texts to keep, 1 or more.
        seed: of the draws.

    Returns:
        The texts kept, all of them in order if there are at most `size`, else in no order; and how many were read.

    Raises:
        SettingsError: if `size` is below 1.

    Source: algorithm R of Vitter 1985, Random sampling with a reservoir.
    """
    if size < 1:
        raise SettingsError(f"size is {size}: pass a number of texts of at least 1")
    random = Random(seed)
    kept: list[str] = []
    read = 0
    for read, text in enumerate(texts, 1):
        if read <= size:
            kept.append(text)
        elif (place := random.randrange(read)) < size:
            kept[place] = text
    return kept, read
