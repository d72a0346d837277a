"""A metric: one function that says what is added up or counted, from which its score and every test between systems follow."""

from __future__ import annotations

from collections.abc import Callable
from functools import update_wrapper
from typing import Generic, ParamSpec, TypeVar

from emogen.evaluate.resampling import CountStatistic, SumStatistic
from emogen.evaluate.score import Score

Arguments = ParamSpec("Arguments")
Statistic = TypeVar("Statistic", SumStatistic, CountStatistic)


class Metric(Generic[Arguments, Statistic]):
    """A metric. Called, it gives its score; `statistic` gives, for the same arguments, what comparisons need.

    >>> from emogen.evaluate import distinct
    >>> distinct(["a b", "a b"], 2).value
    0.5
    >>> distinct.statistic(["a b", "a b"], 2).score(seed=7).value
    0.5
    """

    def __init__(self, statistic: Callable[Arguments, Statistic]) -> None:
        """Make a metric of a function; used as a decorator."""
        self.statistic: Callable[Arguments, Statistic] = statistic
        update_wrapper(self, statistic)

    def __call__(self, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Score:
        """Return the score with its interval, whose random numbers have the seed 0."""
        return self.statistic(*args, **kwargs).score()
