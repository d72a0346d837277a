"""Choosing one of several samples by what it shares with the others and with remembered replies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from empathetic_trials import as_published
from reply_memory import Remembered

from emogen.decoding.minimum_risk import expected_utilities, least_risk

REPEATED = 0.01


# Of the samples as references; they resemble one another, and what that gains them is given to remembered replies as well.
OWN = 0.1


REMEMBERED = 0.011


def chosen(samples: Sequence[Sequence[str]], memories: Sequence[Remembered], candidates: int) -> Mapping[str, Sequence[str]]:
    """Return the replies of each way to choose.

    The first sample, by minimum Bayes risk, and that with similar conversations.
    """
    found: dict[str, Sequence[str]] = {"": [texts[0] for texts in samples]}
    if candidates > 1:
        found[f"mbr:{candidates}"] = [texts[least_risk(list(map(as_published, texts)))] for texts in samples]
    if memories:
        valued = [utilities_of(memory, own) for memory, own in zip(memories, samples, strict=True)]
        found[f"mbr:{candidates}, neighbours"] = most_useful(valued, 0.0)
        found[f"mbr:{candidates}, neighbours, few repeats"] = most_useful(valued, REPEATED)
    return found


def utilities_of(memory: Remembered, samples: Sequence[str]) -> dict[str, float]:
    """Return the expected utility of each candidate: the samples, and the replies of similar conversations.

    The references are the replies of the most similar ones, and the samples. Utilities are of texts in the references' form.
    """
    texts = list(dict.fromkeys([*memory.candidates, *samples]))
    references = [*memory.references, *samples]
    theirs = (1 - OWN) / sum(memory.weights)
    weights = [theirs * weight for weight in memory.weights] + [OWN / len(samples) for _ in samples]
    found = expected_utilities(list(map(as_published, texts)), list(map(as_published, references)), weights)
    if samples:
        found += REMEMBERED * np.isin(texts, memory.candidates)
    return dict(zip(texts, found.tolist(), strict=True))


def most_useful(valued: Sequence[Mapping[str, float]], repeated: float) -> list[str]:
    """For each context the candidate with the highest expected utility.

    Args:
        valued: candidates and their utilities, of each context.
        repeated: what a reply loses for each time that it was given to a context before, in their order.
    """
    given: Counter[str] = Counter()
    found = []
    for values in valued:
        best = max(values, key=lambda text: values[text] - repeated * given[as_published(text)])
        given[as_published(best)] += 1
        found.append(best)
    return found
