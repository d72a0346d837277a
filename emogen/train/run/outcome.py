"""What a finished run is worth, in a sentence: so that one that learnt nothing does not end in silence."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emogen.files import read_text
from emogen.train.run.folder import LOG_FILE

LEAST_MOVED = 0.15
_Z = 1.96


def describe_adversarial(folder: Path) -> str:
    """Say of an adversarial run whether its generator moved.

    By Pinsker's inequality the probability of any set of replies differs from that under the starting model by at most
    sqrt(KL / 2), with KL in nats a reply: what the log holds a token, times the mean length. Below 0.15 a reader of fewer than
    some forty replies cannot tell the two models apart.

    Returns:
        One sentence with the figures, and where it hardly moved with the likely reason and what to change.
    """
    updates = [entry for entry in [json.loads(line) for line in read_text(folder / LOG_FILE).splitlines()] if "kl" in entry]
    if not updates:
        return (
            "the generator was updated fewer than ten times, since the run ended in or just behind the discriminator's "
            "warm-up; raise --steps or --minutes, or lower --warmup-steps"
        )
    last = updates[-1]
    moved = math.sqrt(max(last["kl"], 0.0) * last["length"] / 2)
    conditioning = f"KL to its start {last['kl']:.2g} nats a token, {last['accuracy']:.0%} of pairs told apart"
    if moved >= LEAST_MOVED:
        return f"the generator moved: {conditioning}"
    return (
        f"the generator hardly moved ({conditioning}): at most {moved:.0%} of its replies differ from the starting model's; "
        "raise --learning-rate (three times as high), --steps or --minutes, or lower --kl-weight"
    )


def describe_classifier(counts: NDArray[np.int64], labels: tuple[str, ...]) -> str:
    """Compare a classifier's held-out judgements with the best constant answers.

    Args:
        counts: [true, judged] held-out rows with one label.
        labels: of the classifier.

    Returns:
        One sentence with accuracy and macro-F1 of both; where the lower end of the accuracy's 95% interval (Wilson 1927) is not
        above the commonest label's share, that it is no better than a constant, and what to change. Empty without rows.
    """
    rows = int(counts.sum())
    if not rows:
        return ""
    accuracy, commonest = float(np.trace(counts)) / rows, int(counts.sum(1).argmax())
    share = float(counts.sum(1).max()) / rows
    conditioning = (
        f"{rows:,} held-out rows: accuracy {accuracy:.2f}, macro-F1 {_macro_f1(counts):.2f}; "
        f"always {labels[commonest]}: {share:.2f}, {2 * share / (1 + share) / len(labels):.2f}"
    )
    if wilson_low(accuracy, rows) > share:
        return conditioning
    return f"{conditioning}; that is no better than a constant: give it more rows or epochs, or another --backbone"


def wilson_low(share: float, rows: int) -> float:
    """Compute the lower end of the 95% interval of a share (Wilson 1927).

    >>> round(wilson_low(0.5, 100), 4)
    0.4038
    """
    spread = _Z * math.sqrt(share * (1 - share) / rows + _Z**2 / (4 * rows**2))
    return (share + _Z**2 / (2 * rows) - spread) / (1 + _Z**2 / rows)


def _macro_f1(counts: NDArray[np.int64]) -> float:
    """Return the mean over the labels; one that is neither true nor judged counts as 0."""
    return float(np.mean(2 * np.diag(counts) / np.maximum(counts.sum(0) + counts.sum(1), 1)))
