"""Curves, differences over seeds, and the figure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from conditional_plan import ARMS, DIVERSITY, QUALITIES

from emogen.evaluate.frontier import Point, axis, draw
from emogen.evaluate.score import Score, signature


@dataclass(frozen=True)
class Curve:
    """A metric over diversity, [points] each, by rising diversity."""

    diversity: np.ndarray[Any, np.dtype[np.float64]]
    quality: np.ndarray[Any, np.dtype[np.float64]]

    def at(self, diversity: float) -> float | None:
        """Return the metric where the line through the points has that diversity; None beyond its ends.

        >>> Curve(np.array([0.0, 1.0]), np.array([1.0, 0.5])).at(0.5)
        0.75
        """
        if not self.diversity[0] <= diversity <= self.diversity[-1]:
            return None
        return float(np.interp(diversity, self.diversity, self.quality))


def curve_of(rows: Sequence[Mapping[str, object]], quality: str) -> Curve | None:
    """Return the curve of one model; None where a row lacks a figure."""
    points = sorted((value(row[DIVERSITY]), value(row[quality])) for row in rows if DIVERSITY in row and quality in row)
    if not points or len(points) < len(rows):
        return None
    return Curve(np.array([one for one, _ in points]), np.array([other for _, other in points]))


def value(score: object) -> float:
    """Return the value of a Score."""
    assert isinstance(score, Score)
    return score.value


def mean_difference(own: Curve, start: Curve) -> float | None:
    """Return the mean of own quality less the start's over the diversities that both lines reach.

    None where they have none in common.

    Both are straight between their points, so the trapezoids over all points are exact.

    >>> start = Curve(np.array([0.0, 1.0]), np.array([1.0, 0.0]))
    >>> mean_difference(Curve(np.array([0.5, 1.0, 2.0]), np.array([0.5, 0.5, 0.0])), start)
    0.25
    """
    low, high = max(own.diversity[0], start.diversity[0]), min(own.diversity[-1], start.diversity[-1])
    if low >= high:
        return None
    knots = np.unique(np.clip(np.concatenate([own.diversity, start.diversity]), low, high))
    lines = [np.interp(knots, curve.diversity, curve.quality) for curve in (own, start)]
    return float(np.trapezoid(lines[0] - lines[1], knots) / (high - low))


def with_differences(rows: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    """Return the rows of one task with what each is beyond its start, and a row for each model's whole curve."""
    found = [row for row in rows if "temperature" not in row]
    runs = dict.fromkeys((row["system"], row["seed"]) for row in rows if "temperature" in row)
    for system, seed in runs:
        own, start = ([row for row in rows if (row["system"], row["seed"]) == run] for run in ((system, seed), ("mle", seed)))
        # Temperatures alone tell a model's rows from people's.
        own, start = ([row for row in of if "temperature" in row] for of in (own, start))
        found += own if system == "mle" else beside(own, start)
    return found


def beside(own: Sequence[dict[str, object]], start: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    """Return a model's rows with the differences, and one for its whole curve."""
    whole = {name: own[0][name] for name in ("corpus", "system", "seed")}
    rows = [dict(row) for row in own]
    for quality in QUALITIES:
        mine, theirs = curve_of(own, quality), curve_of(start, quality)
        if mine and theirs:
            note(whole, quality, mean_difference(mine, theirs))
            for row in rows:
                at = theirs.at(value(row[DIVERSITY]))
                note(row, quality, None if at is None else value(row[quality]) - at)
    return [*rows, whole]


def note(row: dict[str, object], quality: str, difference: float | None) -> None:
    """Write a difference into a row, where there is one."""
    if difference is not None:
        row[f"beyond_{quality}"] = difference


def summary(rows: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """Return the mean and deviation over the seeds of each difference.

    At each temperature and over the whole curve (no temperature).
    """
    groups: dict[tuple[object, ...], list[Mapping[str, object]]] = {}
    for row in rows:
        if row["system"] in ARMS[1:]:
            groups.setdefault((row["corpus"], row["system"], row.get("temperature")), []).append(row)
    found = []
    for (corpus, system, temperature), own in groups.items():
        for quality in QUALITIES:
            differences = [row.get(f"beyond_{quality}") for row in own]
            facts = {"corpus": corpus, "system": system, "temperature": temperature, "metric": quality}
            found += [facts | over_seeds(differences)] if any(one is not None for one in differences) else []
    return found


def over_seeds(differences: Sequence[object]) -> dict[str, object]:
    """Their mean and standard deviation; `is_beyond` needs more than two deviations, so at least two seeds, and all of them.

    >>> over_seeds([0.02, 0.03, 0.04])
    {'seeds': 3, 'mean': 0.03, 'deviation': 0.01, 'is_beyond': True}
    >>> over_seeds([0.02, None])
    {'seeds': 1, 'mean': 0.02, 'deviation': None, 'is_beyond': False}
    """
    known = [difference for difference in differences if isinstance(difference, float)]
    mean = round(statistics.mean(known), 5) if known else None
    deviation = round(statistics.stdev(known), 5) if len(known) > 1 else None
    is_whole = len(known) == len(differences)
    is_beyond = is_whole and mean is not None and deviation is not None and mean > 2 * deviation
    return {"seeds": len(known), "mean": mean, "deviation": deviation, "is_beyond": is_beyond}


def figure(rows: Sequence[Mapping[str, object]], corpus: str, quality: str, out: Path) -> None:
    """Draw the arms' curves, means over the seeds, beside the result file."""
    groups: dict[tuple[str, float], list[Mapping[str, object]]] = {}
    for row in rows:
        temperature = row.get("temperature")
        if row["corpus"] == corpus and isinstance(temperature, float) and DIVERSITY in row:
            groups.setdefault((str(row["system"]), temperature), []).append(row)
    points = [
        Point(system, temperature, mean_score(own, quality), mean_score(own, DIVERSITY))
        for (system, temperature), own in groups.items()
    ]
    if points:
        draw(points, out.with_name(f"{out.stem}_{corpus}_{quality}"), axis(quality), axis(DIVERSITY))


def mean_score(rows: Sequence[Mapping[str, object]], metric: str) -> Score:
    """Over the seeds: the mean, with the least and the most for an interval; of one seed its own score."""
    scores = [score for row in rows if isinstance(score := row[metric], Score)]
    if len(scores) == 1:
        return scores[0]
    values = [score.value for score in scores]
    about = signature("mean", {"of": metric, "seeds": len(values), "interval": "range"})
    return Score(statistics.mean(values), min(values), max(values), about)
