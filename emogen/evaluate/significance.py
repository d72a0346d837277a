"""Is one system better than another, or is it chance? Tests on the same items, over training seeds, and over many metrics."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from emogen.errors import DataError, SettingsError, UndefinedScoreError
from emogen.evaluate.resampling import (
    RESAMPLES,
    CountStatistic,
    SumStatistic,
    Values,
    bootstrap_sums,
    half_sample_interval,
    percentile_interval,
)
from emogen.evaluate.score import signature

TRIALS = 10_000
POOL_TRIALS = 1_000

_MOST_SWAPS_AT_ONCE = 2_000_000
_MOST_REGROUPINGS = 200_000
_ROUNDING = 1e-12
_NORMAL_975 = 1.959963984540054
# Quantile .975 of Student's t for 1, 2, ... 30 degrees of freedom.
_T_975 = (
    *(12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281),
    *(2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860),
    *(2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423),
)

Measured = TypeVar("Measured", SumStatistic, CountStatistic)
_Items = tuple[int, ...]


@dataclass(frozen=True)
class Comparison:
    """Two systems under one metric.

    Attributes:
        difference: the second system's value less the first's, on the metric's scale; above 0 the second's is higher, which is
            worse where lower is better.
        low: lower end of the 95% interval of the difference.
        high: upper end of it.
        p: two-sided; how often chance alone, were the systems alike, would give a difference at least as large.
        test: where p comes from: `paired_bootstrap`, `approximate_randomisation`, `exact_permutation` or `random_permutation`.
        signature: the metric's signature and the options of the test.
    """

    difference: float
    low: float
    high: float
    p: float
    test: str
    signature: str


@dataclass(frozen=True)
class SeedSpread:
    """One metric over several training seeds.

    Attributes:
        mean: over the seeds.
        deviation: the sample standard deviation (n - 1 in the denominator).
        seeds: how many there are.
        low: lower end of the 95% t-interval of the mean.
        high: upper end of it.
    """

    mean: float
    deviation: float
    seeds: int
    low: float
    high: float


def paired_bootstrap(first: SumStatistic, second: SumStatistic, seed: int = 0, resamples: int = RESAMPLES) -> Comparison:
    """Return both systems on the same items, drawn with repetition: the interval of their difference, and a p-value.

    The interval is the percentile one. The p-value counts the resamples whose difference lies at least as far from the mean
    of all resampled differences, on either side, as the difference found lies from 0, and adds one to count and number. The
    test of sacrebleu centres in the same way but counts one side alone, so that its p is about half of this one.

    Args:
        first: a metric of the first system's texts.
        second: the same metric of the second system's texts for the same items, in the same order.
        seed: of the draws, which are the same for both.
        resamples: how many draws.

    Raises:
        DataError: if the two have different numbers of items or signatures, or a value is not finite.
        SettingsError: if `resamples` is below 1.

    Source: Koehn 2004 for the pairs; Efron & Tibshirani 1993, chapter 16, for the centring.
    """
    _require_draws("resamples", resamples)
    _require_alike(first, second)
    found = _difference(first, second)
    draws = _resampled_differences(first, second, seed, resamples)
    low, high = percentile_interval(draws)
    p = _share_as_far(draws - draws.mean(), found, _rounding_error(first, second))
    options = f"test:paired_bootstrap|bs:{resamples}|seed:{seed}"
    return Comparison(found, low, high, p, "paired_bootstrap", f"{first.signature}|{options}")


def approximate_randomisation(first: Measured, second: Measured, seed: int = 0, trials: int | None = None) -> Comparison:
    """Swap the two systems' texts for an item with probability 1/2, and looks how often the difference is as large.

    If the systems are alike, a swap changes nothing but chance, whatever the metric: there is no assumption about its
    distribution. p = (hits + 1) / (trials + 1), so it is never below 1 / (trials + 1). Where items are kept in blocks (see
    `added_up`) a block is swapped as one. The interval of the difference is that of the paired bootstrap (for a
    `SumStatistic`) or of
    the same half-samples of both systems (for a `CountStatistic`).

    Args:
        first: a metric of the first system's texts.
        second: the same metric of the second system's texts for the same items, in the same order. The hashes in a
            `CountStatistic`
            must come from the same process.
        seed: of the swaps and of the interval.
        trials: how many times all items are swapped or left; if None, 10,000 for a `SumStatistic` and 1,000 for a
            `CountStatistic`, which takes
            some twenty times as long for each.

    Raises:
        DataError: if the two have different numbers of items or signatures, or a value is not finite.
        SettingsError: if `trials` is below 1.

    Source: Noreen 1989; Riezler & Maxwell 2005; Phipson & Smyth 2010 for the 1 added.
    """
    trials = (TRIALS if isinstance(first, SumStatistic) else POOL_TRIALS) if trials is None else trials
    _require_draws("trials", trials)
    _require_alike(first, second)
    found = _difference(first, second)
    if isinstance(first, SumStatistic):
        differences, (low, high) = (
            _swapped_tallies(first, second, seed, trials),
            percentile_interval(_resampled_differences(first, second, seed, RESAMPLES)),
        )
        interval = f"bs:{RESAMPLES}"
    else:
        differences, (low, high) = _swapped_pools(first, second, seed, trials), _halve(first, second, found, seed)
        interval = "halves"
    p = _share_as_far(differences, found, _rounding_error(first, second))
    options = f"test:approximate_randomisation|trials:{trials}|interval:{interval}|seed:{seed}"
    return Comparison(found, low, high, p, "approximate_randomisation", f"{first.signature}|{options}")


def over_seeds(values: Sequence[float]) -> SeedSpread:
    """Return the mean and spread of a metric over runs that differ in their training seed alone.

    The interval, mean ± t(n - 1) * deviation / sqrt(n), speaks about training again on the same data; it takes the values as
    normally distributed. With few seeds it is wide, and should be: the factor t is 12.7 for two, 4.3 for three.

    Args:
        values: one for each seed, at least two.

    Raises:
        DataError: if there are fewer than two, or one is not finite.

    >>> spread = over_seeds([1, 2, 3])
    >>> spread.mean, spread.deviation, round(spread.high, 3)
    (2.0, 1.0, 4.484)
    """
    _require_seeds(values, "values")
    mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
    margin = _t_975(len(values) - 1) * deviation / math.sqrt(len(values))
    return SeedSpread(mean, deviation, len(values), mean - margin, mean + margin)


def compare_seeds(first: Sequence[float], second: Sequence[float], metric: str, seed: int = 0) -> Comparison:
    """Return two systems that were each trained with several seeds: does the training method differ, not just these two runs?

    p is the share of all ways to deal the values out to the two systems that part their means at least as far. It cannot be
    below 2 / (number of ways) for equal numbers of seeds: .1 for three against three, .029 for four, .0079 for five. So three
    seeds can never show a difference at the 5% level; four can. Beyond 200,000 ways (more than ten against ten), 10,000
    random ones stand for all. The interval of the difference is Welch's, with the degrees of freedom rounded down.

    Args:
        first: one value of the metric for each seed of the first system, at least two.
        second: the same for the second system; the numbers may differ.
        metric: the metric's name, for the signature.
        seed: of the random ways, where not all are tried.

    Raises:
        DataError: if a system has fewer than two values, or one is not finite.

    Source: Fisher 1935 and Pitman 1937 for the test; Welch 1947 for the interval.
    """
    _require_seeds(first, "values of the first system")
    _require_seeds(second, "values of the second system")
    found = float(np.mean(second) - np.mean(first))
    margin = _welch_margin(first, second)
    test, p = _regroup(np.array([*first, *second], dtype=np.float64), len(first), found, seed)
    fields = {"test": test, "seeds": f"{len(first)}+{len(second)}", "interval": "welch", "seed": seed}
    return Comparison(found, found - margin, found + margin, p, test, signature(metric, fields))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values raised for the number of tests.

    So that calling those up to .05 real errs in at most 5% of all such families.

    Args:
        p_values: of every test that was looked at, in any order; none gives none.

    Returns:
        The adjusted p-values in the same order, at most 1; never below those given.

    Raises:
        DataError: if one is not a number from 0 to 1.

    Source: Holm 1979, A simple sequentially rejective multiple test procedure.

    >>> holm([0.5, 0.25, 0.125])
    [0.5, 0.5, 0.375]
    """
    for place, p in enumerate(p_values):
        if not 0 <= p <= 1:
            raise DataError(f"p_values[{place}] is {p}: pass a number from 0 to 1")
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


def _require_draws(name: str, number: int) -> None:
    if number < 1:
        raise SettingsError(f"{name} is {number}: pass at least 1, and some thousands for a p-value to report")


def _require_alike(first: SumStatistic | CountStatistic, second: SumStatistic | CountStatistic) -> None:
    if first.signature != second.signature:
        raise UndefinedScoreError(
            f"the first system is scored by {first.signature} and the second by {second.signature}: "
            "score both in the same way to compare them"
        )
    ours, theirs = _items(first), _items(second)
    if ours != theirs:
        raise DataError(
            f"{first.signature}: {_format_value(ours)} of the first system but {_format_value(theirs)} of the second: "
            "pass the texts of both for the same items"
        )


def _items(measured: SumStatistic | CountStatistic) -> _Items:
    return measured.sums.shape if isinstance(measured, SumStatistic) else (measured.texts,)


def _format_value(items: _Items) -> str:
    return " x ".join(map(str, items)) + (" sums" if len(items) > 1 else " texts")


def _difference(first: SumStatistic | CountStatistic, second: SumStatistic | CountStatistic) -> float:
    values = {"first": first.value, "second": second.value}
    for which, value in values.items():
        if not math.isfinite(value):
            raise UndefinedScoreError(
                f"{first.signature}: the {which} system's value is {value}: there is no difference to test"
            )
    return values["second"] - values["first"]


def _rounding_error(first: SumStatistic | CountStatistic, second: SumStatistic | CountStatistic) -> float:
    """Take differences this close for the same one, computed in another order."""
    return _ROUNDING * max(abs(first.value), abs(second.value))


def _share_as_far(differences: Values, found: float, rounding: float) -> float:
    """Return the share of differences as far from 0 as the one found, itself counted in."""
    if not np.isfinite(differences).all():
        raise UndefinedScoreError("the metric is not finite for some draws of the items: compare over more items")
    hits = np.count_nonzero(np.abs(differences) >= abs(found) - rounding)
    return (int(hits) + 1) / (len(differences) + 1)


def _resampled_differences(first: SumStatistic, second: SumStatistic, seed: int, resamples: int) -> Values:
    """Return [resamples], both systems on the same draws."""
    ours, theirs = np.split(bootstrap_sums(np.hstack([first.sums, second.sums]), seed, resamples), 2, axis=-1)
    return second.metric(theirs) - first.metric(ours)


def _swapped_tallies(first: SumStatistic, second: SumStatistic, seed: int, trials: int) -> Values:
    """Return [trials], the difference after swapping some blocks."""
    blocks = len(first.sums)
    ours, theirs = first.sums.sum(axis=0), second.sums.sum(axis=0)
    gain = second.sums - first.sums
    differences = []
    for swaps in _swaps(blocks, seed, trials):
        moved = swaps.astype(np.float64) @ gain
        differences.append(second.metric(theirs - moved) - first.metric(ours + moved))
    return np.concatenate(differences)


def _swaps(items: int, seed: int, trials: int) -> Iterator[NDArray[np.bool_]]:
    """Yield masks [some trials, items], true where a pair is swapped, until there are `trials` rows."""
    random = np.random.default_rng(seed)
    at_once = max(1, _MOST_SWAPS_AT_ONCE // items)
    for start in range(0, trials, at_once):
        yield random.integers(2, size=(min(at_once, trials - start), items), dtype=np.bool_)


def _swapped_pools(first: CountStatistic, second: CountStatistic, seed: int, trials: int) -> Values:
    """Return [trials], the difference after swapping some texts."""
    places = np.unique(np.concatenate([first.kinds, second.kinds]), return_inverse=True)[1]
    owners = np.concatenate([first.owners, second.owners])
    from_first = np.arange(len(places)) < len(first.kinds)
    everywhere = np.bincount(places)

    def difference(swapped: NDArray[np.bool_]) -> float:
        ours = np.bincount(places[from_first != swapped[owners]], minlength=len(everywhere))
        return second.metric(everywhere - ours) - first.metric(ours)

    return np.array([difference(swapped) for swaps in _swaps(first.texts, seed, trials) for swapped in swaps])


def _halve(first: CountStatistic, second: CountStatistic, found: float, seed: int) -> tuple[float, float]:
    """Interval of the difference from halves of the items, the same of both systems."""
    ours, theirs = first.among(), second.among()
    no_bounds = (-math.inf, math.inf)
    return half_sample_interval(found, lambda chosen: theirs(chosen) - ours(chosen), first.texts, seed, bounds=no_bounds)


def _require_seeds(values: Sequence[float], name: str) -> None:
    if len(values) < 2:
        raise DataError(f"{len(values)} {name}: a spread over training seeds takes at least two")
    for place, value in enumerate(values):
        if not math.isfinite(value):
            raise DataError(f"{name}: number {place + 1} is {value}: score that run again, or leave its seed out and say so")


def _t_975(freedom: int) -> float:
    """Quantile .975 of Student's t; beyond the table by its expansion about the normal (Abramowitz & Stegun 1964, 26.7.5)."""
    if freedom <= len(_T_975):
        return _T_975[freedom - 1]
    z = _NORMAL_975
    terms = (z, (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384)
    return sum(term / float(freedom) ** power for power, term in enumerate(terms))


def _welch_margin(first: Sequence[float], second: Sequence[float]) -> float:
    errors = [float(np.var(values, ddof=1)) / len(values) for values in (first, second)]
    if not sum(errors):
        return 0.0
    shares = [error / sum(errors) for error in errors]
    freedom = 1 / (shares[0] ** 2 / (len(first) - 1) + shares[1] ** 2 / (len(second) - 1))
    return _t_975(math.floor(freedom * (1 + _ROUNDING))) * math.sqrt(sum(errors))


def _regroup(values: Values, first: int, found: float, seed: int) -> tuple[str, float]:
    """Name and p-value of the permutation test; `first` of the values are the first system's."""
    rounding = _ROUNDING * float(np.abs(values).max())
    if math.comb(len(values), first) > _MOST_REGROUPINGS:
        random = np.random.default_rng(seed)
        groups = np.array([random.permutation(len(values))[:first] for _ in range(TRIALS)])
        return "random_permutation", _share_as_far(_mean_gaps(values, groups), found, rounding)
    groups = np.array(list(combinations(range(len(values)), first)))
    as_far = np.abs(_mean_gaps(values, groups)) >= abs(found) - rounding
    return "exact_permutation", float(as_far.mean())


def _mean_gaps(values: Values, groups: NDArray[np.int64]) -> Values:
    """Return [groups], the mean of the values outside each group less the mean of those in it."""
    inside = values[groups].sum(axis=1)
    size = groups.shape[1]
    gaps: Values = (values.sum() - inside) / (len(values) - size) - inside / size
    return gaps
