"""Training of a small classifier on labelled replies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from emogen.data.exchange import Exchange
from emogen.errors import DataError
from emogen.models.classifier import Classifier, ngram_ids
from emogen.train.state import Step


@dataclass(frozen=True)
class ClassifierTraining:
    """How a classifier is trained.

    Attributes:
        epochs: passes over the rows.
        batch_size: rows an update.
        learning_rate: falls to 0 in a straight line.
        balance: exponent of the inverse label frequency that weighs each row; 0 for none, 1 for balanced labels.
        seed: of order and dropout.
    """

    epochs: int = 8
    batch_size: int = 64
    learning_rate: float = 3e-3
    balance: float = 0.5
    seed: int = 0


def train_classifier(classifier: Classifier, exchanges: Sequence[Exchange], config: ClassifierTraining) -> Iterator[Step]:
    """Updates `classifier` in place, with the emotion mixtures of the replies as soft targets; yields after each update.

    Raises:
        DataError: no exchange at all.
    """
    if not exchanges:
        raise DataError("no row to train a classifier on")
    random = torch.Generator().manual_seed(config.seed)
    grams = [ngram_ids(exchange.reply, classifier.config) for exchange in exchanges]
    targets = torch.tensor([exchange.emotion.weights for exchange in exchanges])
    weights = label_weights(targets, config.balance)
    optimizer = torch.optim.Adam(classifier.parameters(), lr=config.learning_rate)
    total = config.epochs * -(-len(grams) // config.batch_size)
    number = 0
    for _ in range(config.epochs):
        for rows in torch.split(torch.randperm(len(grams), generator=random), config.batch_size):
            classifier.train()
            loss = functional.cross_entropy(
                classifier.scores([grams[row] for row in rows.tolist()]), targets[rows], weight=weights
            )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.param_groups[0]["lr"] = config.learning_rate * (1 - number / total)
            optimizer.step()
            number += 1
            yield Step(number, {"loss": float(loss.detach())})


def label_weights(targets: Tensor, balance: float) -> Tensor:
    """Weight of each label, [emotions]: its inverse frequency to the power `balance`, of mean 1; 0 where it never occurs."""
    counts = targets.sum(0)
    weights = torch.where(counts > 0, counts.clamp(min=1e-9) ** -balance, 0.0)
    return weights * (counts > 0).sum() / weights.sum()
