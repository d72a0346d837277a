"""A metric's value with its interval and its signature, and the resampling behind the intervals."""

from collections.abc import Callable, Mapping, Sized
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emogen.errors import DataError

RESAMPLES = 1000


@dataclass(frozen=True)
class Score:
    """One metric's value.

    Attributes:
        value: the metric over all items, on the scale that the metric's docstring gives.
        low: lower end of the 95% interval.
        high: upper end of the 95% interval.
        signature: how the value was computed, as `name|key:value|...|version:...`.
    """

    value: float
    low: float
    high: float
    signature: str


def toolkit_version() -> str:
    """Version of the installed distribution, or `dev` when it runs from a source tree."""
    try:
        return version("emogen-toolkit")
    except PackageNotFoundError:
        return "dev"


def signature(name: str, fields: Mapping[str, object]) -> str:
    """How a score was computed, in sacrebleu's form.

    >>> signature("distinct", {"n": 2, "texts": 500}).rpartition("|version:")[0]
    'distinct|n:2|texts:500'
    """
    pairs = [f"{key}:{value}" for key, value in fields.items()]
    return "|".join([name, *pairs, f"version:{toolkit_version()}"])


def require_items(items: Sized, name: str) -> None:
    """Check that there is something to score.

    Raises:
        DataError: if `items` is empty.
    """
    if not len(items):
        raise DataError(f"no {name} to score: pass at least one")


def require_pairs(left: Sized, right: Sized, names: tuple[str, str]) -> None:
    """Check that two lists describe the same items.

    Raises:
        DataError: if they differ in length or are empty.
    """
    if len(left) != len(right):
        raise DataError(f"{len(left)} {names[0]} but {len(right)} {names[1]}: pass one of each for every item")
    require_items(left, names[0])


def percentile_interval(draws: NDArray[np.float64], level: float = 0.95) -> tuple[float, float]:
    """Central interval that holds the share `level` of the draws."""
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


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
    value: float, share: Callable[[NDArray[np.bool_]], float], items: int, seed: int, draws: int = 200
) -> tuple[float, float]:
    """95% interval of a share that repeated items would bias, from halves drawn without replacement.

    The spread of the halves about their median, times sqrt(half / (items - half)), estimates the spread of `value`:
    the factor joins the sample sizes (half to items) and the correction for a finite population, and is 1 for an even
    number. The median and not `value` is the centre, since such a share depends on the sample size. The spread is the
    sampling error of one run of this size; it says nothing about the share at another size.

    Args:
        value: the share over all items, from 0 to 1.
        share: the same share over the items marked in a mask [items].
        items: how many items there are.
        seed: of the draws.
        draws: how many halves.

    Returns:
        The lower and the upper end, about `value` and within 0 and 1; both are `value` for a single item.

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
    return max(0.0, value - scale * above), min(1.0, value - scale * below)
