"""What the rows of the oracle study say, and the figure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from emogen.files import replace_file

if TYPE_CHECKING:
    pass
from oracle_sequences import Row, Vector

ABOVE = 0.2
"""Nats a token above the best held-out NLL of maximum likelihood, where systems are compared."""


FIGURES = ("nll_oracle", "entropy", "distinct2")


PUBLISHED = {"random": 10.31, "MLE": 9.038, "SeqGAN": 8.736, "RankGAN": 8.247, "LeakGAN": 7.038, "RelGAN": 6.68, "real": 5.75}
"""Under SeqGAN's oracle at length 20, from the papers; RelGAN's table for the last two."""


def reached(rows: Sequence[Row], held_out: float, figure: str = "nll_oracle") -> float | None:
    """Return a figure where the curve of one model, cooled down from its best held-out NLL, reaches `held_out`.

    Args:
        rows: of one system, length and seed; between two temperatures the curve is taken to be straight.
        held_out: nats a token.
        figure: key of the rows.

    Returns:
        None if the curve never reaches it.
    """
    cooling = sorted(rows, key=lambda row: -row["temperature"])
    best = min(range(len(cooling)), key=lambda place: cooling[place]["nll_heldout"])
    for before, after in pairwise(cooling[best:]):
        low, high = before["nll_heldout"], after["nll_heldout"]
        if low <= held_out <= high:
            share = (held_out - low) / (high - low) if high > low else 0.0
            return float(before[figure] + share * (after[figure] - before[figure]))
    return None


def summary(rows: Sequence[Row], above: float = ABOVE) -> list[Row]:
    """Return each system where its held-out NLL is `above` the best of maximum likelihood's: means over seeds, SD, gaps.

    Returns:
        One entry a length and system: `nll_oracle` with its `deviation` over seeds; `entropy` and `distinct2` of the samples
        there, since the oracle NLL alone also falls where samples are less various; `below_mle` and `above_dense`, differences
        of `nll_oracle`, and the same divided by the root mean square of the two deviations (`..._in_deviations`).
        `reached` says how many of the seeds' curves come to that point. What cannot be computed is left out.
    """
    found = []
    for length in sorted({row["length"] for row in rows}):
        here = [row for row in rows if row["length"] == length]
        limit = min(row["nll_heldout"] for row in here if row["system"] == "mle") + above
        systems = list(dict.fromkeys(row["system"] for row in here))
        points = {system: _points(here, system, limit, "nll_oracle") for system in systems}
        for system in systems:
            entry: Row = {"length": length, "system": system, "nll_heldout": limit, "reached": len(points[system])}
            for figure in FIGURES:
                entry |= _mean(figure, _points(here, system, limit, figure))
            entry |= _gap("below_mle", points[system], points["mle"])
            entry |= _gap("above_dense", points.get("dense", []), points[system])
            found.append(entry)
    return found


def _points(rows: Sequence[Row], system: str, limit: float, figure: str) -> list[float]:
    """Return a figure at the limit for each seed whose curve reaches it."""
    own = [row for row in rows if row["system"] == system]
    seeds = sorted({row["seed"] for row in own})
    points = [reached([row for row in own if row["seed"] == seed], limit, figure) for seed in seeds]
    return [point for point in points if point is not None]


def _mean(name: str, values: Sequence[float]) -> Row:
    mean = {name: statistics.mean(values)} if values else {}
    return mean | ({"deviation": statistics.stdev(values)} if name == "nll_oracle" and len(values) > 1 else {})


def _gap(name: str, lower: Sequence[float], higher: Sequence[float]) -> Row:
    if not lower or not higher:
        return {}
    gap = statistics.mean(higher) - statistics.mean(lower)
    if min(len(lower), len(higher)) < 2 or statistics.variance(lower) + statistics.variance(higher) == 0:
        return {name: gap}
    spread = math.sqrt((statistics.variance(lower) + statistics.variance(higher)) / 2)
    return {name: gap, f"{name}_in_deviations": gap / spread}


def draw(rows: Sequence[Row], path: Path) -> None:
    """The figure: each system's mean curve, maximum likelihood's with a band of two deviations, and what was published."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 5.4), layout="constrained")
    axes = figure.add_subplot()
    for system in dict.fromkeys(row["system"] for row in rows if "ablation" not in row):
        held_out, oracle, spread = _curve([row for row in rows if row["system"] == system])
        axes.plot(held_out, oracle, marker="o", markersize=3, linewidth=1.2, label=system)
        if system == "mle":
            axes.fill_between(held_out, oracle - 2 * spread, oracle + 2 * spread, alpha=0.25, linewidth=0)
    edge = axes.get_xlim()[1]
    for name, value in PUBLISHED.items():
        axes.plot([edge], [value], marker="<", color="black", markersize=5, clip_on=False)
        axes.annotate(f"{name} {value:g} ", (edge, value), ha="right", va="center", fontsize=7)
    axes.set_xlabel("NLL of held-out oracle samples under the generator, nats a token (lower is better)")
    axes.set_ylabel("NLL of generated samples under the oracle, nats a token (lower is better)")
    axes.grid(alpha=0.3, linewidth=0.5)
    axes.legend()
    for suffix in (".png", ".svg"):
        with replace_file(path.with_suffix(suffix)) as beside:
            figure.savefig(beside, format=suffix[1:], dpi=200)


def _curve(rows: Sequence[Row]) -> tuple[Vector, Vector, Vector]:
    """Return means over seeds of held-out and oracle NLL at each temperature, and the deviation of the latter."""
    temperatures = sorted({row["temperature"] for row in rows})
    groups = [[row for row in rows if row["temperature"] == temperature] for temperature in temperatures]
    tables = [np.array([[row["nll_heldout"], row["nll_oracle"]] for row in group]) for group in groups]
    means = np.array([table.mean(0) for table in tables])
    return means[:, 0], means[:, 1], np.array([table[:, 1].std(ddof=min(1, len(table) - 1)) for table in tables])
