"""Measuring with a guide what a model must be told: strengths whose effect rises in a straight line, mixtures that come out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from emogen.checkpoint import Checkpoint
from emogen.decoding.calibration import Calibration
from emogen.decoding.sampling import Sampling
from emogen.decoding.texts import Guide
from emogen.emotions import Emotion, LabelSet, mixture
from emogen.train.config import CalibrationSettings

STEPS = 11
SHARES = (0.25, 0.5, 0.75)
_RIDGE = 1e-2
_LEAST = 0.02
_NOTHING = 1e-9

Vector = NDArray[np.float64]
Judged = Callable[[Sequence[Emotion]], Vector]
"""Takes emotions as a model is told them; gives the guide's mean probabilities [emotions, labels] of texts with each."""


def calibrated(
    model: Checkpoint, guide: Guide, sampling: Sampling, settings: CalibrationSettings, signature: str
) -> Calibration:
    """Measures a model under the control of `sampling`.

    Args:
        model: whose own calibration is left out of account.
        guide: probabilities over the model's labels; also chooses among candidates where the control reranks.
        sampling: the options that the model will be used with.
        settings: texts a point, and the seed.
        signature: how the guide is named.

    Returns:
        A calibration by `settings.texts` texts at each of 11 strengths of each label, and at 3 shares of each pair of labels.
    """
    bare = replace(model, calibration=None)

    def judged(told: Sequence[Emotion]) -> Vector:
        rows = [emotion for emotion in told for _ in range(settings.texts)]
        found = bare.replies([()] * len(rows), rows, sampling=sampling, seed=settings.seed, guide=guide)
        probabilities = guide([sample.text for sample in found])
        return np.asarray(probabilities.reshape(len(told), settings.texts, -1).mean(1))

    sharpness, preference = fitted_shares(judged, model.labels)
    strengths = fitted_strengths(judged, model.labels)
    told = f"{signature}; {settings.texts} texts a point, seed {settings.seed}, temperature {sampling.temperature:g}"
    return Calibration(model.labels, sampling.control, strengths, sharpness, preference, told)


def fitted_strengths(judged: Judged, labels: LabelSet) -> tuple[tuple[float, ...], ...]:
    """For each label what to tell for the asked strengths 0, .1 ... 1, so that its judged probability rises evenly."""
    grid = np.linspace(0, 1, STEPS)
    asked = [mixture({name: 1.0}, labels, float(strength)) for name in labels.names for strength in grid]
    found = judged(asked).reshape(len(labels), STEPS, len(labels))
    return tuple(tuple(straightened(found[place, :, place]).tolist()) for place in range(len(labels)))


def straightened(measured: Vector) -> Vector:
    """Where on an even grid from 0 to 1 the measured curve, made monotone, has gone each even share of its way.

    >>> straightened(np.array([0.0, 0.8, 1.0]))
    array([0.    , 0.3125, 1.    ])
    """
    grid = np.linspace(0, 1, len(measured))
    rising = monotone(measured)
    if rising[-1] - rising[0] < _LEAST:
        return grid
    wanted = np.minimum(rising[0] + grid[1:] * (rising[-1] - rising[0]), rising[-1])
    # The first place that is high enough, and the one before, which is too low: so a plateau is left where it ends.
    after = np.searchsorted(rising, wanted)
    share = (wanted - rising[after - 1]) / (rising[after] - rising[after - 1])
    return np.append(0.0, grid[after - 1] + share * np.diff(grid)[after - 1])


def monotone(values: Vector) -> Vector:
    """The nearest rising sequence in least squares (pool adjacent violators; Ayer et al. 1955).

    >>> monotone(np.array([1.0, 3.0, 2.0]))
    array([1. , 2.5, 2.5])
    """
    pools: list[tuple[float, int]] = []
    for value in values:
        mean, size = float(value), 1
        while pools and pools[-1][0] > mean:
            before, count = pools.pop()
            mean, size = (mean * size + before * count) / (size + count), size + count
        pools.append((mean, size))
    return np.concatenate([np.full(size, mean) for mean, size in pools])


def fitted_shares(judged: Judged, labels: LabelSet) -> tuple[float, tuple[float, ...]]:
    """Sharpness and preferences by which the told shares of two labels must be moved.

    The log odds of what was told are fitted, in least squares, by those of what was judged and one number a label.
    """
    pairs = [(one, other, share) for one, other in combinations(range(len(labels)), 2) for share in SHARES]
    if not pairs:
        return 1.0, (0.0,) * len(labels)
    names = labels.names
    found = judged([mixture({names[one]: share, names[other]: 1 - share}, labels) for one, other, share in pairs])
    columns = np.zeros((len(pairs), 1 + len(labels)))
    told = np.empty(len(pairs))
    for row, (one, other, share) in enumerate(pairs):
        seen = found[row, [one, other]] + _NOTHING
        columns[row, 0] = _log_odds(float(seen[0] / seen.sum()))
        columns[row, 1 + one], columns[row, 1 + other] = 1.0, -1.0
        told[row] = _log_odds(share)
    gram = columns.T @ columns + _RIDGE * np.eye(len(columns.T))
    solved = np.linalg.solve(gram, columns.T @ told)
    return max(float(solved[0]), 0.1), tuple(solved[1:].tolist())


def _log_odds(share: float) -> float:
    bounded = min(max(share, _LEAST), 1 - _LEAST)
    return float(np.log(bounded / (1 - bounded)))
