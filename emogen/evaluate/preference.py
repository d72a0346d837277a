"""Share of pairs in which one thing is preferred to another."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from emogen.errors import DataError
from emogen.evaluate.metric import Metric
from emogen.evaluate.resampling import SumStatistic, Values, added_up
from emogen.evaluate.score import require_items, require_pairs, signature


@Metric
def preference(margins: Sequence[float], owners: Sequence[Hashable] | None = None) -> SumStatistic:
    """Return the share of pairs with a margin above 0, those without one counting half, with a bootstrap interval.

    Args:
        margins: of each pair how much the one is preferred to the other; below 0 the other is.
        owners: what each pair belongs to, such as its context: pairs of one owner are not independent and are drawn together.
            By default each pair is its own.

    Returns:
        From 0 to 1; 0.5 where nothing is preferred.

    Raises:
        DataError: if there is no pair, a margin is not finite, or there is not one owner for each pair.
    """
    require_items(margins, "pairs")
    owned = range(len(margins)) if owners is None else owners
    require_pairs(margins, owned, ("margins", "owners"))
    broken = np.flatnonzero(~np.isfinite(np.asarray(margins, dtype=np.float64)))
    if len(broken):
        raise DataError(f"margins[{broken[0]}] is {margins[broken[0]]}; a margin is a finite number")
    sums: dict[Hashable, list[float]] = {}
    for margin, owner in zip(margins, owned, strict=True):
        found = sums.setdefault(owner, [0.0, 0.0])
        found[0] += 1.0 if margin > 0 else 0.5 if margin == 0 else 0.0
        found[1] += 1.0
    fields = {"ties": "half", "pairs": len(margins), "groups": len(sums)}
    return SumStatistic(added_up(sums.values()), _share, signature("preference", fields))


def _share(sums: Values) -> Values:
    share: Values = sums[..., 0] / sums[..., 1]
    return share
