"""Loop: a classifier on labelled texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from emogen.data.batches import batch_rows
from emogen.errors import DataError
from emogen.models.classifier import Classifier, Pieces, decide_labels, emotion_scores, probabilities_of
from emogen.train.config import ClassifierTraining
from emogen.train.run.state import Step, TrainState, learning_rate_at, mixed_precision, update
from emogen.train.thresholds import best_temperature, best_thresholds, macro_f1


@dataclass(frozen=True)
class Labelled:
    """Texts as a classifier reads them, and what they should be found to be.

    Attributes:
        texts: read by the classifier.
        targets: [texts, emotions]; shares that sum to 1, or 0 and 1 where a text may have several labels.
    """

    texts: Sequence[Pieces]
    targets: Tensor

    def __len__(self) -> int:
        return len(self.texts)

    def rows(self, positions: Sequence[int]) -> Labelled:
        """Return the texts at the given places."""
        return Labelled([self.texts[place] for place in positions], self.targets[list(positions)])


def labelled_batches(data: Labelled, size: int, seed: int, start: int = 0) -> Iterator[Labelled]:
    """Yield batches without end, every epoch in a new order; a pure function of the arguments, so that `start` resumes exactly.

    Raises:
        DataError: there is no row.
    """
    if not len(data):
        raise DataError("no row to train a classifier on")
    lengths = np.array([len(text.sizes) for text in data.texts])
    for positions in batch_rows(lengths, size, seed, start):
        yield data.rows(positions.tolist())


def train_classifier(
    classifier: Classifier, batches: Iterator[Labelled], weights: Tensor, config: ClassifierTraining, state: TrainState
) -> Iterator[Step]:
    """Update `classifier` in place from state.step on; yield after each update.

    Args:
        classifier: its optimizer is `state.optimizers["classifier"]`.
        batches: of training rows.
        weights: [emotions], of each label, from `label_weights`.
        config: rates and smoothing.
        state: step, progress and random numbers.

    Raises:
        TrainingError: a loss that is not finite.
    """
    device = classifier.head.weight.device
    for batch in batches:
        classifier.train()
        with mixed_precision(config.precision, device):
            scores = classifier.scores(batch.texts)
        loss = classification_loss(
            scores, batch.targets.to(device), weights.to(device), config.label_smoothing, classifier.config.multi_label
        )
        taken = update(loss, state.optimizers["classifier"], learning_rate_at(config.learning_rate, state), state)
        state.step += 1
        yield Step(state.step, taken)


def classification_loss(scores: Tensor, targets: Tensor, weights: Tensor, smoothing: float, multi_label: bool) -> Tensor:
    """Return weighted cross-entropy, over the labels together or (multi_label) for each on its own; a scalar, in nats.

    Args:
        scores: [texts, emotions].
        targets: [texts, emotions], shares that sum to 1, or 0 and 1.
        weights: [emotions]: of a text by its label, or (multi_label) of a label that is there.
        smoothing: share of the target spread over all labels (Szegedy et al. 2016).
        multi_label: which of both.
    """
    if multi_label:
        softened = targets * (1 - smoothing) + smoothing / 2
        return functional.binary_cross_entropy_with_logits(scores, softened, pos_weight=weights)
    return functional.cross_entropy(scores, targets, weight=weights, label_smoothing=smoothing)


def label_weights(targets: Tensor, balance: float, multi_label: bool = False) -> Tensor:
    """Return the weight of each label, [emotions], to the power `balance`: 0 weighs all alike, 1 makes up for rarity.

    It is the inverse frequency, of mean 1, and 0 where a label never occurs; for several labels a text, the ratio of texts
    without the label to texts with it.
    """
    counts = targets.sum(0)
    if multi_label:
        return ((len(targets) - counts).clamp(min=1) / counts.clamp(min=1)) ** balance
    weights = torch.where(counts > 0, counts.clamp(min=1e-9) ** -balance, 0.0)
    return weights * (counts > 0).sum() / weights.sum()


def held_out_f1(classifier: Classifier, data: Labelled, config: ClassifierTraining) -> dict[str, float]:
    """Return Macro-F1 on held-out rows (at the best thresholds for them, if multi-label), what lacks to 1, and the loss."""
    with mixed_precision(config.precision, classifier.head.weight.device):
        scores = emotion_scores(classifier, data.texts)
    gold = data.targets > 0
    probabilities = probabilities_of(scores, classifier.config)
    if classifier.config.multi_label:
        found = probabilities >= best_thresholds(probabilities, gold)
    else:
        found, gold = decide_labels(probabilities, classifier.config), gold_labels(data.targets)
    even = torch.ones(data.targets.shape[1])
    loss = classification_loss(scores, data.targets, even, 0.0, classifier.config.multi_label)
    measure = macro_f1(found, gold)
    return {"macro_f1": measure, "error": 1 - measure, "loss": float(loss)}


def gold_labels(targets: Tensor) -> Tensor:
    """Return the heaviest label of each text, [texts, emotions] bool."""
    return functional.one_hot(targets.argmax(1), targets.shape[1]).bool()


def calibration(classifier: Classifier, data: Labelled) -> tuple[float, tuple[float, ...]]:
    """Temperature and thresholds that held-out rows ask for; no thresholds where a text has one label.

    Raises:
        DataError: there is no row.
    """
    if not len(data):
        raise DataError("no valid row to choose temperature and thresholds on")
    scores = emotion_scores(classifier, data.texts)
    multi_label = classifier.config.multi_label
    temperature = best_temperature(scores, data.targets, multi_label)
    if not multi_label:
        return temperature, ()
    thresholds = best_thresholds((scores / temperature).sigmoid(), data.targets > 0)
    return temperature, tuple(thresholds.tolist())
