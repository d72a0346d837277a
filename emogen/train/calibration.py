"""Measuring with a guide what a model must be told: strengths whose effect rises in a straight line, mixtures that come out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from emogen.checkpoint.model import EmotionModel
from emogen.decoding.calibration import MOST_SHARPNESS, Calibration
from emogen.decoding.params import SamplingParams
from emogen.decoding.texts import Guide
from emogen.emotions.labels import Emotion, LabelSet, mixture
from emogen.train.config import CalibrationSettings

STEPS = 11
SHARES = (0.25, 0.5, 0.75)
CHECKED_STRENGTHS = 5
_RIDGE = 1e-2
_LEAST = 0.02
_NOTHING = 1e-9

Vector = NDArray[np.float64]
Judged = Callable[[Sequence[Emotion]], Vector]
"""Takes emotions as a model is told them; give the guide's mean probabilities [emotions, labels] of texts with each."""


def calibrate_model(
    model: EmotionModel, guide: Guide, sampling: SamplingParams, settings: CalibrationSettings, signature: str
) -> Calibration:
    """Measure a model under the control of `sampling`.

    Args:
        model: whose own calibration is left out of account.
        guide: probabilities over the model's labels; also chooses among candidates where the control reranks.
        sampling: the options that the model will be used with.
        settings: texts a point, and the seed.
        signature: how the guide is named.

    Returns:
        A calibration by `settings.texts` texts at each of 11 strengths of each label, and at 3 shares of each pair of labels.
    """
    judged = judged_by(model, guide, sampling, settings.texts, settings.seed)
    sharpness, preference = fitted_shares(judged, model.labels)
    strengths = fitted_strengths(judged, model.labels)
    conditioning = f"{signature}; {settings.texts} texts a point, seed {settings.seed}, temperature {sampling.temperature:g}"
    return Calibration(model.labels, sampling.control, strengths, sharpness, preference, conditioning)


@dataclass(frozen=True)
class Gain:
    """What a calibration gains on texts that it was not fitted on: mean absolute errors in judged probability.

    Attributes:
        strengths: before and after, of the judged probability against the even course from strength 0 to full strength.
        shares: before and after, of the judged share of one label of two against the asked one.
    """

    strengths: tuple[float, float]
    shares: tuple[float, float]


def measure_gain(judged: Judged, found: Calibration) -> Gain:
    """Measure errors without and with a calibration, on texts that it was not fitted on.

    Args:
        judged: of a model without a calibration.
        found: what is tried.
    """

    def find_gain(target: Sequence[Emotion]) -> Vector:
        return judged([found.conditioning_for(emotion) for emotion in target])

    return Gain(_strength_errors(judged, find_gain, found.labels), _share_errors(judged, find_gain, found.labels))


def keep_what_helps(found: Calibration, gain: Gain) -> Calibration | None:
    """Take out of a calibration the part whose error did not fall; None where neither did.

    Strengths and shares are told apart: one may help where the other harms.
    """
    keeps_strengths, keeps_shares = (after < before for before, after in (gain.strengths, gain.shares))
    if not keeps_strengths and not keeps_shares:
        return None
    if not keeps_strengths:
        return replace(found, strengths=(tuple(np.linspace(0, 1, STEPS).tolist()),) * len(found.labels))
    return found if keeps_shares else replace(found, sharpness=1.0, preference=(0.0,) * len(found.labels))


def judged_by(model: EmotionModel, guide: Guide, sampling: SamplingParams, texts: int, seed: int) -> Judged:
    """Judge `texts` texts with each told emotion by the guide, seeds from `seed`; the model's own calibration has no part."""
    bare = replace(model, calibration=None)

    def judged(conditioning: Sequence[Emotion]) -> Vector:
        rows = [emotion for emotion in conditioning for _ in range(texts)]
        found = bare.replies([()] * len(rows), rows, sampling=sampling, seed=seed, guide=guide)
        probabilities = guide([sample.text for sample in found])
        return np.asarray(probabilities.reshape(len(conditioning), texts, -1).mean(1))

    return judged


def _strength_errors(judged: Judged, helped: Judged, labels: LabelSet) -> tuple[float, float]:
    grid = np.linspace(0, 1, CHECKED_STRENGTHS)
    target = [mixture({name: 1.0}, labels, float(strength)) for name in labels.names for strength in grid]
    before, after = (
        judge(target).reshape(len(labels), CHECKED_STRENGTHS, len(labels)).diagonal(axis1=0, axis2=2)
        for judge in (judged, helped)
    )
    # What is wanted goes evenly from nothing to the most that the model reaches by itself.
    wanted = before[0] + grid[:, None] * (before.max(0) - before[0])
    return float(np.abs(before - wanted).mean()), float(np.abs(after - wanted).mean())


def _share_errors(judged: Judged, helped: Judged, labels: LabelSet) -> tuple[float, float]:
    pairs, target = _mixtures(labels)
    if not pairs:
        return 0.0, 0.0
    wanted = np.array([share for *_, share in pairs])
    before, after = (_judged_shares(judge(target), pairs) for judge in (judged, helped))
    return float(np.abs(before - wanted).mean()), float(np.abs(after - wanted).mean())


def fitted_strengths(judged: Judged, labels: LabelSet) -> tuple[tuple[float, ...], ...]:
    """Find for each label what to tell for the asked strengths 0, .1 ... 1, so that its judged probability rises evenly."""
    grid = np.linspace(0, 1, STEPS)
    target = [mixture({name: 1.0}, labels, float(strength)) for name in labels.names for strength in grid]
    found = judged(target).reshape(len(labels), STEPS, len(labels))
    return tuple(tuple(straighten(found[place, :, place]).tolist()) for place in range(len(labels)))


def straighten(measured: Vector) -> Vector:
    """Tell where on an even grid from 0 to 1 the measured curve, made monotone, has gone each even share of its way.

    >>> straighten(np.array([0.0, 0.8, 1.0]))
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
    """Return the nearest rising sequence in least squares (pool adjacent violators; Ayer et al. 1955).

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
    pairs, target = _mixtures(labels)
    if not pairs:
        return 1.0, (0.0,) * len(labels)
    shares = _judged_shares(judged(target), pairs)
    columns = np.zeros((len(pairs), 1 + len(labels)))
    conditioning = np.empty(len(pairs))
    for row, (one, other, share) in enumerate(pairs):
        columns[row, 0] = _log_odds(float(shares[row]))
        columns[row, 1 + one], columns[row, 1 + other] = 1.0, -1.0
        conditioning[row] = _log_odds(share)
    gram = columns.T @ columns + _RIDGE * np.eye(len(columns.T))
    solved = np.linalg.solve(gram, columns.T @ conditioning)
    return min(max(float(solved[0]), 0.1), MOST_SHARPNESS), tuple(np.clip(solved[1:], -MOST_SHARPNESS, MOST_SHARPNESS).tolist())


def _mixtures(labels: LabelSet) -> tuple[list[tuple[int, int, float]], list[Emotion]]:
    """Return every pair of labels at every share, as places and as emotions."""
    pairs = [(one, other, share) for one, other in combinations(range(len(labels)), 2) for share in SHARES]
    names = labels.names
    return pairs, [mixture({names[one]: share, names[other]: 1 - share}, labels) for one, other, share in pairs]


def _judged_shares(found: Vector, pairs: Sequence[tuple[int, int, float]]) -> Vector:
    """Return the first label's part of what is judged of the two."""
    seen = np.array([found[row, [one, other]] for row, (one, other, _) in enumerate(pairs)]) + _NOTHING
    return np.asarray(seen[:, 0] / seen.sum(1))


def _log_odds(share: float) -> float:
    bounded = min(max(share, _LEAST), 1 - _LEAST)
    return float(np.log(bounded / (1 - bounded)))
