"""What an evaluation is given: the texts of a system, judges, encoders and options."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from emogen.errors import SettingsError
from emogen.evaluate import fluency
from emogen.evaluate.emotion import (
    Confusion,
    Judge,
)
from emogen.evaluate.overlap import Language
from emogen.evaluate.similarity import (
    Encoder,
)

Item = TypeVar("Item")


Vectors = NDArray[np.float64]


class Watch(Protocol):
    """Lets somebody see how far a long loop is: gives the items through."""

    def __call__(self, items: Iterable[Item], what: str, total: int | None, /) -> Iterable[Item]:
        """Return the same items; `total` is their number where it is known."""


def watch_nothing(items: Iterable[Item], _what: str, _total: int | None, /) -> Iterable[Item]:
    """Return the items, without a word."""
    return items


@dataclass(frozen=True)
class System:
    """What is scored.

    Attributes:
        name: of the system.
        texts: the generated texts; gone through several times, so no iterator.
        references: for each text a list of at least one; likewise. None: no overlap metrics.
        target: for each text the emotion that it was to express; likewise. None: no judged metrics.
        where: what an error calls the text of a number, counted from 0.
    """

    name: str
    texts: Iterable[str]
    references: Iterable[Sequence[str]] | None = None
    target: Iterable[str] | None = None
    where: Callable[[int], str] = "texts[{}]".format


@dataclass(frozen=True)
class Judging:
    """A judge of emotions.

    Attributes:
        name: short, for the names of scores where there are several judges.
        labels: the columns of what it answers.
        probabilities: texts to probabilities [texts, labels].
        identity: name and version, for signatures.
        leak: what is known of shared data with the systems judged, for signatures.
        own: its confusion on held-out texts with known labels, if it is known; corrects the accuracy.
    """

    name: str
    labels: tuple[str, ...]
    probabilities: Judge
    identity: str = "unnamed"
    leak: str = "unchecked"
    own: Confusion | None = None


@dataclass(frozen=True)
class Encoding:
    """An encoder of texts.

    Attributes:
        name: for signatures.
        sentences: texts to embeddings [texts, width].
        tokens: texts to the token vectors [tokens, width] of each.
        both: texts to the two answers above, in one pass; None computes them one after the other.
    """

    name: str
    sentences: Callable[[Sequence[str]], NDArray[Any]]
    tokens: Encoder
    both: Callable[[Sequence[str]], tuple[NDArray[Any], Sequence[NDArray[Any]]]] | None = None

    def read(self, texts: Sequence[str]) -> tuple[Vectors, Sequence[NDArray[Any]]]:
        """Return sentence vectors [texts, width] and the token vectors of each text."""
        if self.both is None:
            return np.asarray(self.sentences(texts), dtype=np.float64), self.tokens(texts)
        sentences, tokens = self.both(texts)
        return np.asarray(sentences, dtype=np.float64), tokens


@dataclass(frozen=True)
class Fluency:
    """A language model that says how likely texts are.

    Attributes:
        name: for signatures.
        nats: texts to their negative log-likelihoods [texts], end token included.
    """

    name: str
    nats: fluency.LanguageModel


@dataclass(frozen=True)
class Resources:
    """What systems are scored with, beside their own texts.

    Attributes:
        training: what the systems were trained on, gone through once a system; gives novelty and copied.
        real: real texts that belong to no text in particular; None takes the references.
        judges: of emotions, for systems with `target`.
        encoder: gives Fréchet distance, similarity, BERTScore and, if asked for, MAUVE.
        language_model: gives perplexity.
        reverse: trains a language model on texts, for reverse perplexity on the real ones.
    """

    training: Iterable[str] | None = None
    real: Iterable[str] | None = None
    judges: tuple[Judging, ...] = ()
    encoder: Encoding | None = None
    language_model: Fluency | None = None
    reverse: Callable[[Sequence[str]], Fluency] | None = None


@dataclass(frozen=True)
class Options:
    """How scores are computed.

    Attributes:
        language: en, zh, char, or auto, which goes by the script of the references.
        lowercase: BLEU and chrF without regard to case (TER and ROUGE always are).
        sample: most texts of a system, and of the real ones, that are held in memory.
        seed: of samples, intervals and tests.
        mauve: whether to compute MAUVE, which takes minutes.
        lexicon: whether to compare the polarity asked for with that of VADER's lexicon.
    """

    language: Language = "auto"
    lowercase: bool = False
    sample: int = 100_000
    seed: int = 0
    mauve: bool = False
    lexicon: bool = False

    def __post_init__(self) -> None:
        if self.sample < 1:
            raise SettingsError(f"sample is {self.sample}: pass a number of texts of at least 1")
