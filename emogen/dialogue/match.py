"""Which of the replies at hand fits a context and an emotion: a ranking over callables."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from emogen.emotions.labels import Emotion
from emogen.errors import DataError, SettingsError

Fit = Callable[[Sequence[str]], NDArray[np.float64]]
"""How well texts fit, [texts]: higher is better."""

Probabilities = Callable[[Sequence[str]], NDArray[np.float64]]
"""Probabilities of emotions, [texts, labels]."""

_AT_ONCE = 256
_MOST_CHARACTERS = 4096
_LEAST = 1e-6


@dataclass(frozen=True)
class Aim:
    """One thing that a reply is to fit.

    Attributes:
        fit: of texts.
        weight: of this fit among the others, at least 0.
    """

    fit: Fit
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.weight < math.inf:
            raise SettingsError(f"weight {self.weight:g} of a fit is not at least 0")


@dataclass(frozen=True)
class Candidate:
    """A reply to choose from.

    Attributes:
        line: where it stands in its file, counted from 1.
        text: not blank.
    """

    line: int
    text: str


@dataclass(frozen=True)
class Match:
    """A candidate with its fit.

    Attributes:
        line: of the candidate.
        text: of the candidate.
        fit: weighted sum of the two below.
        emotion: fit to the emotion that is asked for; None where none is.
        context: fit to the context; None where there is none.
    """

    line: int
    text: str
    fit: float
    emotion: float | None
    context: float | None

    def as_object(self) -> dict[str, object]:
        """Return what JSON holds."""
        return {name: round(value, 6) if isinstance(value, float) else value for name, value in asdict(self).items()}


def candidates(rows: Iterable[tuple[int, str]]) -> list[Candidate]:
    """Return the replies of numbered texts: blank ones are left out, and those that stand there already, blanks aside.

    Raises:
        DataError: nothing is left.
    """
    found: dict[str, Candidate] = {}
    for line, text in rows:
        if plain := " ".join(text.split()):
            found.setdefault(plain, Candidate(line, plain))
    if not found:
        raise DataError("no reply to choose from: every text is blank")
    return list(found.values())


def rank(choice: Sequence[Candidate], emotion: Aim | None = None, context: Aim | None = None, n: int = 3) -> list[Match]:
    """Return the candidates that fit best, best first; of equals the one that stands first.

    The fit is `emotion.weight * fit to the emotion + context.weight * fit to the context`. With the log probability of an
    emotion and the pointwise mutual information with a context, both in nats and both weights 1, it ranks as the
    probability of emotion and context given the reply does, the two taken as independent.

    Args:
        choice: the replies; none gives an empty ranking.
        emotion: fit to the emotion that is asked for, such as `emotion_fit`.
        context: fit to the context.
        n: how many are given back, at least 1.

    Raises:
        SettingsError: neither emotion nor context, or another n.
        DataError: a fit that is no finite number, with the candidate's line.
    """
    if emotion is None and context is None:
        raise SettingsError("nothing to fit: give an emotion, a context or both")
    if n < 1:
        raise SettingsError(f"n {n} is not at least 1")
    texts = [candidate.text for candidate in choice]
    total = np.zeros(len(texts))
    parts: list[NDArray[np.float64] | None] = []
    for aim in (emotion, context):
        parts.append(_check_values(aim.fit(texts), choice) if aim else None)
        if aim and parts[-1] is not None:
            total = total + aim.weight * parts[-1]
    best = np.argsort(-total, kind="stable")[:n]
    return [_match(choice[place], int(place), total, parts) for place in best]


def emotion_fit(probabilities: Probabilities, target: Emotion) -> Fit:
    """Return the log probability of the asked mixture y of strength s: s * sum of y_e * log p_e, in nats.

    It is highest where the text's probabilities p are y itself. A probability below one in a million counts as that; of a
    text the first 4,096 characters are read.

    Args:
        probabilities: over the labels of `target`; called with at most 256 texts.
        target: the emotion.
    """
    weights = np.array(target.weights)

    def fit(texts: Sequence[str]) -> NDArray[np.float64]:
        batches = _batches([text[:_MOST_CHARACTERS] for text in texts])
        parts = [np.log(np.maximum(probabilities(some), _LEAST)) @ weights for some in batches]
        return target.strength * np.concatenate([np.zeros(0), *parts])

    return fit


def _batches(texts: Sequence[str]) -> Iterator[list[str]]:
    waiting = iter(texts)
    while batch := list(islice(waiting, _AT_ONCE)):
        yield batch


def _check_values(values: NDArray[np.float64], choice: Sequence[Candidate]) -> NDArray[np.float64]:
    if values.shape != (len(choice),):
        raise DataError(f"a fit gives values of shape {values.shape} for {len(choice)} replies")
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise DataError(f"line {choice[bad[0]].line}: the reply's fit is {values[bad[0]]}, no finite number; check the model")
    return values


def _match(candidate: Candidate, place: int, total: NDArray[np.float64], parts: list[NDArray[np.float64] | None]) -> Match:
    emotion, context = (None if part is None else float(part[place]) for part in parts)
    return Match(candidate.line, candidate.text, float(total[place]), emotion, context)
