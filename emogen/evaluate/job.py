"""What the tasks of an evaluation share: the texts that are scored, samples of them, and the scores found."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import chain

import numpy as np

from emogen.errors import DataError, SettingsError
from emogen.evaluate.emotion import (
    Confusion,
)
from emogen.evaluate.inputs import Encoding, Fluency, Options, Resources, System, Vectors, Watch
from emogen.evaluate.resampling import CountStatistic, SumStatistic, reservoir
from emogen.evaluate.score import Score, align, in_batches, require_items
from emogen.evaluate.similarity import (
    Match,
    best_match,
    checked_tokens,
)

SCORED_AT_ONCE = 256


@dataclass(frozen=True)
class Measure:
    """A score by its name, and what it was computed from."""

    name: str
    score: Score
    basis: SumStatistic | CountStatistic | None = None


@dataclass(frozen=True)
class Drawn:
    """An even sample of texts, and how many there were."""

    texts: list[str]
    seen: int

    @property
    def mark(self) -> str:
        """Return what a signature says of the sample; nothing where it holds everything."""
        return f"|seen:{self.seen}" if self.seen > len(self.texts) else ""


@dataclass(frozen=True)
class Task:
    """Some metrics that are computed together.

    Attributes:
        names: of the scores.
        run: computes them.
    """

    names: tuple[str, ...]
    run: Callable[[], Iterable[Measure]]


@dataclass(frozen=True)
class Job:
    """One system with all that it is scored with, and what is found on the way."""

    system: System
    means: Resources
    options: Options
    watch: Watch
    notes: list[str] = field(default_factory=list)
    confusions: dict[str, Confusion] = field(default_factory=dict)

    @property
    def real(self) -> Iterable[str] | None:
        """Real texts that belong to no text in particular."""
        references = self.system.references
        return self.means.real if self.means.real is not None or references is None else FlatReferences(references)

    @cached_property
    def drawn(self) -> Drawn:
        """Return a sample of the texts."""
        drawn = Drawn(*self.sample(self.system.texts, "texts"))
        require_items(drawn.texts, "texts")
        if drawn.mark:
            self.notes.append(sampled_note(f"{self.system.name}: diversity, distribution and fluency", drawn))
        return drawn

    @cached_property
    def drawn_real(self) -> Drawn:
        """Return a sample of the real texts."""
        drawn = Drawn(*self.sample(self.real or (), "real texts"))
        require_items(drawn.texts, "real texts")
        if drawn.mark:
            self.notes.append(sampled_note("real texts", drawn))
        return drawn

    @cached_property
    def drawn_references(self) -> list[list[str]]:
        """Return the references of the sampled texts: the same seed and number draw the same places."""
        listed = map(json.dumps, self.system.references or ())
        return list(map(json.loads, self.sample(listed, "references")[0]))

    @cached_property
    def drawn_asked(self) -> list[str]:
        """Return what was asked for in the sampled texts."""
        return self.sample(self.system.target or (), "emotions")[0]

    @cached_property
    def paired(self) -> Paired:
        """Return what the encoder says of the sampled texts and their references."""
        if self.means.encoder is None:
            raise SettingsError("an encoder is needed to compare texts with references")
        return embed_pairs(self, self.means.encoder)

    def sample(self, texts: Iterable[str], what: str) -> tuple[list[str], int]:
        """Sample as `reservoir` does, watched."""
        return reservoir(self.watch(texts, what, None), self.options.sample, self.options.seed)

    def watch_texts(self, what: str) -> Iterable[str]:
        """Return all texts."""
        return self.watch(self.system.texts, what, self.drawn.seen)

    def measure(self, name: str, basis: SumStatistic | CountStatistic, mark: str = "") -> Measure:
        """Return the score of a basis whose signature gets a mark."""
        signed = replace(basis, signature=basis.signature + mark)
        return Measure(name, signed.score(self.options.seed), signed)


@dataclass(frozen=True)
class FlatReferences:
    """All references one after another."""

    references: Iterable[Sequence[str]]

    def __iter__(self) -> Iterator[str]:
        return chain.from_iterable(self.references)


def sampled_note(what: str, drawn: Drawn) -> str:
    """Say that a score was computed from a sample, and which option changes that."""
    return f"{what}: an even sample of {len(drawn.texts):,} of {drawn.seen:,} texts; --sample changes that"


def embed(job: Job, texts: Sequence[str], encoder: Encoding) -> Vectors:
    """Return the encoder's sentence embeddings of texts, [texts, width]."""
    batches = in_batches(job.watch(texts, "embeddings", len(texts)), SCORED_AT_ONCE)
    return np.concatenate([np.asarray(encoder.sentences(batch), dtype=np.float64) for batch in batches])


PAIR = ("texts", "lists of references")


@dataclass(frozen=True)
class Paired:
    """What an encoder says of texts and their references.

    Attributes:
        own: [texts, width], sentence vectors of the texts.
        nearest: [texts, width], those of the reference nearest to each.
        matches: of each text's tokens with those of its best reference.
        references: sentence vectors of the references that stand for real texts.
    """

    own: Vectors
    nearest: Vectors
    matches: list[Match]
    references: Mapping[str, Vectors]


def embed_pairs(job: Job, encoder: Encoding) -> Paired:
    """Read every text and every reference once."""
    texts, listed = job.drawn.texts, job.drawn_references
    wanted = frozenset(job.drawn_real.texts) if job.means.real is None else frozenset()
    own, nearest = [], []
    matches: list[Match] = []
    kept: dict[str, Vectors] = {}
    pairs = job.watch(list(align(texts, listed, PAIR)), "embeddings", len(texts))
    for batch in in_batches(pairs, 64):
        named = [text for pair in batch for text in (pair[0], *pair[1])]
        sentences, tokens = encoder.read(named)
        if not len(sentences) == len(tokens) == len(named):
            found = f"{len(sentences)} sentence vectors and the tokens of {len(tokens)} texts"
            raise DataError(f"the encoder {encoder.name} gave {found} for {len(named)} texts; it must give one each")
        kept.update((text, vector) for text, vector in zip(named, sentences, strict=True) if text in wanted)
        read = zip(sentences, map(checked_tokens, tokens, map(repr, named)), strict=True)
        for _, references in batch:
            (vector, words), others = next(read), [next(read) for _ in references]
            own.append(vector)
            nearest.append(max((other for other, _ in others), key=partial(cosine, vector)))
            matches.append(best_match(words, (other for _, other in others)))
    left = list(wanted - kept.keys())
    kept.update(zip(left, embed(job, left, encoder), strict=True) if left else ())
    return Paired(np.array(own), np.array(nearest), matches, kept)


def cosine(one: Vectors, other: Vectors) -> float:
    """Return the cosine of two vectors; 0 where one is all zeros."""
    return float(one @ other) / max(float(np.linalg.norm(one) * np.linalg.norm(other)), sys.float_info.min)


def compute_nats(job: Job, texts: Sequence[str], model: Fluency) -> Vectors:
    """Return the negative log-likelihood of each text under a model, [texts]."""
    batches = in_batches(job.watch(texts, "log-likelihoods", len(texts)), SCORED_AT_ONCE)
    return np.concatenate([np.asarray(model.nats(batch), dtype=np.float64) for batch in batches])
