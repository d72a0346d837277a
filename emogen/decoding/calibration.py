"""What a model is told so that the emotion that comes out is the one that was asked for."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from emogen.decoding.control import Control, parse_control
from emogen.emotions.labels import Emotion, LabelSet
from emogen.errors import CheckpointError, EmogenError, SettingsError
from emogen.files import read_json, write_text

CALIBRATION_FILE = "calibration.json"
MOST_SHARPNESS = 100.0


@dataclass(frozen=True)
class Calibration:
    """Strengths and shares that a model must be told, as `emogen calibrate` has measured them with a guide.

    Attributes:
        labels: of the model.
        control: that was on; under another one nothing is known.
        strengths: [labels][steps], what to tell for the asked strengths 0 to 1 in even steps: rising, 0 first.
        sharpness: power of the asked shares of a mixture.
        preference: [labels], log factors of the shares: high for an emotion that else loses against others.
        signature: how it was measured.
    """

    labels: LabelSet
    control: Control
    strengths: tuple[tuple[float, ...], ...]
    sharpness: float
    preference: tuple[float, ...]
    signature: str

    def __post_init__(self) -> None:
        if len(self.strengths) != len(self.labels) or len(self.preference) != len(self.labels):
            raise SettingsError("a calibration needs one row of strengths and one preference for each label")
        if len({len(row) for row in self.strengths}) > 1:
            raise SettingsError("the rows of strengths of a calibration are not of one length")
        for row in self.strengths:
            is_rising = all(low <= high for low, high in pairwise(row))
            if len(row) < 2 or row[0] != 0 or row[-1] > 1 or not is_rising:
                raise SettingsError(f"strengths {list(row)} of a calibration do not rise from 0 to at most 1")
        if not 0 < self.sharpness <= MOST_SHARPNESS or not all(abs(favour) <= MOST_SHARPNESS for favour in self.preference):
            raise SettingsError(
                f"sharpness of a calibration must be above 0 and at most {MOST_SHARPNESS:g}, and no preference larger than that"
            )

    def conditioning_for(self, target: Emotion) -> Emotion:
        """Return what the model is told for an emotion that is asked for."""
        weights = told_shares(target.weights, self.sharpness, self.preference)
        steps = np.linspace(0, 1, len(self.strengths[0]))
        own = [float(np.interp(target.strength, steps, row)) for row in self.strengths]
        return Emotion(target.labels, weights, min(1.0, math.fsum(w * s for w, s in zip(weights, own, strict=True))))


def told_shares(shares: Sequence[float], sharpness: float, preference: Sequence[float]) -> tuple[float, ...]:
    """Return shares in proportion to `share^sharpness * exp(preference)`; what is 0 stays 0.

    >>> told_shares((0.75, 0.25, 0.0), 2.0, (0.0, 0.0, 5.0))
    (0.9, 0.1, 0.0)
    """
    raised = [
        share**sharpness * math.exp(favour) if share > 0 else 0.0 for share, favour in zip(shares, preference, strict=True)
    ]
    total = math.fsum(raised)
    return tuple(part / total for part in raised)


def write_calibration(folder: str | Path, calibration: Calibration) -> None:
    """Write it into a checkpoint's folder, whole or not at all."""
    folder = Path(folder)
    content = asdict(calibration) | {"labels": list(calibration.labels.names), "control": str(calibration.control)}
    write_text(folder / CALIBRATION_FILE, json.dumps(content) + "\n")


def read_calibration(folder: str | Path, labels: LabelSet) -> Calibration | None:
    """Return the calibration of a checkpoint; None where it has none.

    Raises:
        CheckpointError: the file is there but broken, or of other labels.
    """
    folder = Path(folder)
    path = folder / CALIBRATION_FILE
    if not path.is_file():
        return None
    try:
        found = read_json(path)
        names, control = LabelSet(tuple(found["labels"])), parse_control(found["control"])
        strengths = tuple(tuple(map(float, row)) for row in found["strengths"])
        preference = tuple(map(float, found["preference"]))
        calibration = Calibration(names, control, strengths, float(found["sharpness"]), preference, str(found["signature"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EmogenError) as error:
        raise CheckpointError(
            f"{path}: no readable calibration ({error!r}); remove it, then run `emogen calibrate` again"
        ) from None
    if names != labels:
        raise CheckpointError(
            f"{path}: is of {', '.join(names.names)}, the model has {', '.join(labels.names)}; remove the file"
        )
    return calibration
