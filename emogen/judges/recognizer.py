"""A trained classifier in use: what emotion a text expresses, how strongly, and which words carry it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from emogen.atomic import write_text
from emogen.checkpoint import load_classifier
from emogen.emotions import LabelSet
from emogen.errors import CheckpointError
from emogen.models.classifier import Classifier, decided, emotion_probabilities

CONFUSION_FILE = "confusion.json"
_NEUTRAL = "neutral"


@dataclass(frozen=True)
class Recognition:
    """What a text was found to express.

    Attributes:
        label: the likeliest emotion.
        labels: all that are given: the likeliest alone, or every one that reaches its threshold (maybe none).
        probabilities: of every label, calibrated on held-out rows.
        strength: 0 to 1: how sure it is that the text expresses anything, 1 - p(neutral); where no label is called neutral, the
            probability of the likeliest.
    """

    label: str
    labels: tuple[str, ...]
    probabilities: dict[str, float]
    strength: float


@dataclass(frozen=True)
class Recognizer:
    """A classifier with its labels.

    Attributes:
        folder: where it stands.
        classifier: the model, in eval mode.
        names: its labels.
    """

    folder: Path
    classifier: Classifier
    names: LabelSet

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Probabilities [texts, labels]; a judge for `emogen.evaluate`."""
        if not texts:
            return np.zeros((0, len(self.names)))
        return np.asarray(emotion_probabilities(self.classifier, texts).double().numpy())

    def recognize(self, texts: Sequence[str]) -> list[Recognition]:
        """What each text expresses."""
        probabilities = self.probabilities(texts)
        given = decided(torch.from_numpy(probabilities).float(), self.classifier.config).tolist()
        return [self._recognition(row, marks) for row, marks in zip(probabilities.tolist(), given, strict=True)]

    def _recognition(self, row: list[float], marks: list[bool]) -> Recognition:
        shares = dict(zip(self.names.names, row, strict=True))
        label = max(shares, key=shares.__getitem__)
        strength = 1 - shares[_NEUTRAL] if _NEUTRAL in shares else shares[label]
        given = tuple(name for name, mark in zip(self.names.names, marks, strict=True) if mark)
        return Recognition(label, given, shares, strength)


def load_recognizer(folder: str | Path, device: str = "cpu") -> Recognizer:
    """A classifier from its checkpoint.

    Raises:
        CheckpointError: missing, cut short, or no classifier.
    """
    classifier, labels = load_classifier(Path(folder), device)
    return Recognizer(Path(folder), classifier, labels)


def write_confusion(folder: Path, labels: LabelSet, counts: NDArray[np.int64]) -> None:
    """Writes into a checkpoint how its classifier judged its held-out test rows, whole or not at all.

    Args:
        folder: of the checkpoint.
        labels: of the classifier.
        counts: [true, judged] rows.
    """
    content = {"labels": list(labels.names), "counts": np.asarray(counts).tolist()}
    write_text(folder / CONFUSION_FILE, json.dumps(content) + "\n")


def read_confusion(folder: Path, labels: LabelSet) -> NDArray[np.int64] | None:
    """How a classifier judged its own held-out test rows, [true, judged]; None if there is no such file.

    Raises:
        CheckpointError: the file is there but cut short, of other labels, or holds no counts.
    """
    path = folder / CONFUSION_FILE
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        names, counts = tuple(content["labels"]), _counts(content["counts"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: no readable confusion ({error!r}); remove it or train the classifier again") from None
    if names != labels.names or len(counts) != len(names):
        expected = ", ".join(labels.names)
        raise CheckpointError(f"{path}: is of {', '.join(map(str, names))}, the classifier has {expected}; remove the file")
    return counts


def _counts(rows: Any) -> NDArray[np.int64]:
    counts = np.array(rows)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or counts.dtype.kind != "i" or (counts < 0).any():
        raise ValueError("counts must be whole numbers of at least 0, a row and a column for each label")
    return counts.astype(np.int64)
