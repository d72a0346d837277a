"""From a classifier's scores on held-out rows to probabilities that are right and thresholds that pay."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_TEMPERATURES = torch.logspace(-1, 1, 81)


def macro_f1(found: Tensor, gold: Tensor) -> float:
    """Return the mean over the labels of F1 = 2 hits / (found + gold); a label that is in neither is left out.

    Args:
        found: [rows, labels] bool, labels given.
        gold: the same shape, labels that are right.
    """
    either = found.sum(0) + gold.sum(0)
    measures = 2 * (found & gold).sum(0) / either.clamp(min=1)
    return float(measures[either > 0].mean()) if bool((either > 0).any()) else 0.0


def best_thresholds(probabilities: Tensor, gold: Tensor) -> Tensor:
    """Find for each label the probability from which giving it makes the best F1, [labels]; a half where no row has the label.

    It lies half-way between the last probability that is taken and the next that is not.

    Args:
        probabilities: [rows, labels].
        gold: the same shape, bool.
    """
    return torch.stack([_best_threshold(*column) for column in zip(probabilities.T, gold.T, strict=True)])


def _best_threshold(probabilities: Tensor, gold: Tensor) -> Tensor:
    if not bool(gold.any()):
        return torch.tensor(0.5)
    ordered, positions = probabilities.double().sort(descending=True)
    taken = torch.arange(1, len(ordered) + 1)
    measure = 2 * gold[positions].cumsum(0) / (taken + gold.sum())
    following = torch.cat([ordered[1:], torch.zeros(1)])
    # A threshold cannot part equal probabilities.
    measure[:-1][ordered[:-1] == following[:-1]] = -1.0
    best = int(measure.argmax())
    between = ((ordered[best] + following[best]) / 2).float()
    # Between two neighbouring floats there is none.
    return between if between > following[best] else ordered[best].float()


def best_temperature(scores: Tensor, targets: Tensor, multi_label: bool) -> float:
    """Return the temperature, of 81 between 0.1 and 10, at which the targets are likeliest (Guo et al. 2017).

    Args:
        scores: [rows, labels], before softmax or sigmoid.
        targets: the same shape, shares that sum to 1, or 0 and 1 (multi_label).
        multi_label: whether each label stands on its own.
    """
    losses = torch.stack([_loss(scores / temperature, targets, multi_label) for temperature in _TEMPERATURES])
    return float(_TEMPERATURES[losses.argmin()])


def _loss(scores: Tensor, targets: Tensor, multi_label: bool) -> Tensor:
    if multi_label:
        return functional.binary_cross_entropy_with_logits(scores, targets)
    return functional.cross_entropy(scores, targets)
