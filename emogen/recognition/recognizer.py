"""A trained classifier in use: what emotion a text expresses, how strongly, and which words carry it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from emogen.checkpoint.finding import shipped_folder
from emogen.checkpoint.model import load_classifier
from emogen.emotions.labels import LabelSet
from emogen.errors import CheckpointError, SettingsError
from emogen.models.classifier import Classifier, decide_labels, emotion_probabilities
from emogen.text.words import scripts_of

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
        is_read: whether the classifier can read the text at all. Where it cannot, no label is given, the strength is 0, and
            all probability is that of neutral, or there is none.
    """

    label: str
    labels: tuple[str, ...]
    probabilities: dict[str, float]
    strength: float
    is_read: bool = True


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
        """Return probabilities [texts, labels]; a judge for `emogen.evaluate`."""
        if not texts:
            return np.zeros((0, len(self.names)))
        return np.asarray(emotion_probabilities(self.classifier, texts).double().numpy())

    def over(self, labels: LabelSet) -> Callable[[Sequence[str]], NDArray[np.float64]]:
        """Return probabilities over a generator's labels, for a control that reranks or is calibrated.

        Raises:
            SettingsError: a label that the classifier does not know.
        """
        missing = [name for name in labels.names if name not in self.names]
        if missing:
            raise SettingsError(
                f"guide {self.folder}: knows no {', '.join(missing)}, only {', '.join(self.names.names)}; name one over "
                f"the model's labels with --guide, as `emogen train-classifier --labels {','.join(labels.names)}` makes it"
            )
        columns = [self.names.position(name) for name in labels.names]
        return lambda texts: np.asarray(self.probabilities(texts)[:, columns])

    def reads(self, text: str) -> bool:
        """Return whether the text is written in letters that the classifier has seen in training, or in none at all.

        Most of its letters count. A classifier that does not say what it was trained on is taken to read everything.
        """
        known, letters = self.classifier.config.scripts, scripts_of([text])
        return not known or 2 * sum(letters[script] for script in known) >= letters.total()

    def unread_note(self, text: str) -> str:
        """Return the line for a user whose text the classifier does not read."""
        (script, _), *_ = scripts_of([text]).most_common(1)
        known = " and ".join(name.title() for name in self.classifier.config.scripts)
        return f"the recogniser has learnt from {known} letters alone: a text in {script.title()} letters is given no emotion"

    def recognize(self, texts: Sequence[str]) -> list[Recognition]:
        """Return what each text expresses.

        Raises:
            CheckpointError: the classifier gives no numbers, for want of sound weights.
        """
        probabilities = self.probabilities(texts)
        if not np.isfinite(probabilities).all():
            raise CheckpointError(f"{self.folder}: gives probabilities that are no numbers; train it again, or take another")
        given = decide_labels(torch.from_numpy(probabilities).float(), self.classifier.config).tolist()
        found = zip(texts, probabilities.tolist(), given, strict=True)
        return [self._recognition(row, marks) if self.reads(text) else self._unread() for text, row, marks in found]

    def _unread(self) -> Recognition:
        shares = dict.fromkeys(self.names.names, 0.0)
        if _NEUTRAL in shares:
            shares[_NEUTRAL] = 1.0
        return Recognition(max(shares, key=shares.__getitem__), (), shares, 0.0, is_read=False)

    def _recognition(self, row: list[float], marks: list[bool]) -> Recognition:
        shares = dict(zip(self.names.names, row, strict=True))
        label = max(shares, key=shares.__getitem__)
        strength = 1 - shares[_NEUTRAL] if _NEUTRAL in shares else shares[label]
        given = tuple(name for name, mark in zip(self.names.names, marks, strict=True) if mark)
        return Recognition(label, given, shares, strength)


def load_recognizer(folder: str | Path | None = None, device: str = "cpu") -> Recognizer:
    """Return a classifier from its checkpoint; None takes `$EMOGEN_CLASSIFIER`, else the one that ships.

    Raises:
        CheckpointError: missing, cut short, or no classifier.
    """
    if folder is None:
        folder = os.environ.get("EMOGEN_CLASSIFIER") or shipped_folder("recognizer")
    if not (Path(folder) / "config.json").is_file():
        raise CheckpointError(f"{folder}: no classifier there (no config.json); train one, or name another folder")
    classifier, labels = load_classifier(Path(folder), device)
    return Recognizer(Path(folder), classifier, labels)
