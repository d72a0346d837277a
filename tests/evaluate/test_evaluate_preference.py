"""Share of pairs preferred: ties, pairs that belong together, and what is refused."""

import math

import pytest

from emogen.errors import DataError
from emogen.evaluate.preference import preference


def test_share_with_ties_counting_half():
    """(2 + 1/2) / 4, by hand."""
    assert preference([0.2, 3.0, 0.0, -1.0]).value == pytest.approx(0.625)


def test_nothing_preferred_is_one_half_without_doubt():
    found = preference([0.0] * 20)
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)


def test_pairs_of_one_owner_are_drawn_together():
    """Ten contexts with ten equal pairs each tell no more than ten pairs: the interval is as wide, not a third of it."""
    margins = [1.0] * 5 + [-1.0] * 5
    ten = preference(margins)
    hundred = preference([margin for margin in margins for _ in range(10)], [owner for owner in range(10) for _ in range(10)])
    alone = preference([margin for margin in margins for _ in range(10)])
    assert hundred.value == ten.value == 0.5
    assert (hundred.low, hundred.high) == (ten.low, ten.high)
    assert alone.high - alone.low < 0.5 * (ten.high - ten.low)


def test_interval_is_about_that_of_a_binomial_share():
    """1.96 sqrt(.7 * .3 / 400) either way, the normal approximation."""
    found = preference([1.0] * 280 + [-1.0] * 120)
    assert found.high - found.low == pytest.approx(2 * 1.96 * math.sqrt(0.7 * 0.3 / 400), rel=0.15)


def test_signature_says_how_many_pairs_and_groups():
    assert "pairs:3|groups:2" in preference.statistic([1.0, 1.0, -1.0], ["a", "a", "b"]).signature


@pytest.mark.parametrize(
    ("margins", "owners", "said"),
    [
        ([], None, "no pairs"),
        ([1.0, math.nan], None, r"margins\[1\] is nan"),
        ([1.0, 2.0], ["a"], "2 margins but 1 owners"),
    ],
)
def test_refused(margins, owners, said):
    with pytest.raises(DataError, match=said):
        preference(margins, owners)
